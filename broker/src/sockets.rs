//! Making and binding the sockets: unix sockets for the same user, TCP with CURVE, remembered ports first.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use kvbroker::exit::Exit;
use kvbroker::keys::KeyPair;
use kvbroker::transport::{ServerOptions, ServerSocket};
use kvbroker::zap::{Policy, SecuredContext};
use kvbroker_protocol::limits;

use crate::failure::Failure;

/// A bound socket with the context that guards it. The socket must be dropped first.
pub(crate) struct Bound {
    pub(crate) socket: ServerSocket,
    pub(crate) context: SecuredContext,
    pub(crate) tcp: SocketAddr,
}

/// Where a socket binds.
pub(crate) struct Place<'a> {
    pub(crate) ipc: &'a Path,
    pub(crate) listen: IpAddr,
    /// The port asked for; None: the remembered one, else a free one.
    pub(crate) port: Option<u16>,
    pub(crate) remembered: Option<u16>,
    /// The flag that chooses the port, for messages.
    pub(crate) flag: &'static str,
}

/// What stands around a message in a frame: CURVE's 33 bytes, the name of a SUBSCRIBE command. Also so much room over the limit of a
/// body that one which is a little too large gets an answer instead of a closed connection.
const FRAME_OVERHEAD_BYTES: usize = 4_096;

fn router_options() -> ServerOptions {
    ServerOptions { max_frame_bytes: (limits::MESSAGE_BYTES_MAX + FRAME_OVERHEAD_BYTES) as i64, ..ServerOptions::default() }
}

/// libzmq keeps a subscription as a chain of nodes, some fifty bytes for each byte of the topic: a topic has no reason to be longer
/// than a key.
fn publisher_options() -> ServerOptions {
    ServerOptions { max_frame_bytes: (limits::KEY_BYTES_MAX + FRAME_OVERHEAD_BYTES) as i64, ..ServerOptions::default() }
}

/// Binds the ROUTER and starts to watch its connections.
pub(crate) fn router(policy: Policy, keys: &KeyPair, place: &Place<'_>) -> Result<Bound, Failure> {
    let context = context(policy)?;
    let mut socket = context.router(&router_options()).map_err(unreachable())?;
    socket.watch(context.context()).map_err(unreachable())?;
    bind(socket, context, keys, place)
}

/// Binds the XPUB.
pub(crate) fn publisher(policy: Policy, keys: &KeyPair, place: &Place<'_>) -> Result<Bound, Failure> {
    let context = context(policy)?;
    let socket = context.xpub(&publisher_options()).map_err(unreachable())?;
    bind(socket, context, keys, place)
}

fn unreachable<E: std::fmt::Display>() -> impl Fn(E) -> Failure {
    Failure::with(Exit::Unreachable)
}

fn context(policy: Policy) -> Result<SecuredContext, Failure> {
    SecuredContext::start(1, policy, kvbroker::critical::abort_process()).map_err(unreachable())
}

fn bind(mut socket: ServerSocket, context: SecuredContext, keys: &KeyPair, place: &Place<'_>) -> Result<Bound, Failure> {
    socket.bind_ipc(place.ipc).map_err(unreachable())?;
    let remembered = place.remembered.filter(|port| *port != 0 && place.port.is_none());
    let tcp = match remembered.map(|port| socket.bind_tcp(keys, place.listen, port)) {
        Some(Ok(bound)) => bound,
        Some(Err(error)) if error.is_address_in_use() => {
            let port = remembered.unwrap_or_default();
            tracing::warn!("port {port}, used last time, is taken by another program: a free one is taken instead");
            socket.bind_tcp(keys, place.listen, 0).map_err(unreachable())?
        }
        Some(Err(error)) => return Err(unreachable()(error)),
        None => {
            let port = place.port.unwrap_or(0);
            socket.bind_tcp(keys, place.listen, port).map_err(|error| {
                let advice = if error.is_address_in_use() {
                    format!("; choose another {}, or 0 for any free one", place.flag)
                } else {
                    String::new()
                };
                Failure::new(Exit::Unreachable, format!("{error}{advice}"))
            })?
        }
    };
    Ok(Bound { socket, context, tcp })
}

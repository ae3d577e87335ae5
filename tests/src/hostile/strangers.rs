//! Attacks by those who have no key, and by raw bytes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Target;
use super::attack::Progress;
use crate::Dice;

const SILENT: usize = 1_000;
const SLOW: usize = 100;
const DRIBBLING: usize = 50;
/// Pace of what drips.
const DRIP: Duration = Duration::from_millis(10);

/// ZMTP 3.1, CURVE, as a client.
fn greeting(mechanism: &[u8]) -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[..12].copy_from_slice(b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01");
    greeting[12..12 + mechanism.len()].copy_from_slice(mechanism);
    greeting
}

fn has_ended(stream: &mut impl Read) -> bool {
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

fn connect(target: &Target) -> Option<TcpStream> {
    let stream = TcpStream::connect(target.router).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

pub(super) fn silent(target: &Target, progress: &Progress) {
    let mut streams = Vec::new();
    while !progress.is_over() {
        streams.retain_mut(|stream| !has_ended(stream));
        while streams.len() < SILENT && !progress.is_over() {
            let Some(stream) = connect(target) else { break };
            streams.push(stream);
            progress.add(1);
        }
        std::thread::sleep(DRIP * 5);
    }
}

pub(super) fn slow_handshakes(target: &Target, progress: &Progress) {
    let greeting = greeting(b"CURVE");
    let mut streams: Vec<(TcpStream, usize)> = Vec::new();
    while !progress.is_over() {
        streams.retain_mut(|(stream, _)| !has_ended(stream));
        while streams.len() < SLOW {
            let Some(stream) = connect(target) else { break };
            streams.push((stream, 0));
        }
        for (stream, sent) in &mut streams {
            // Behind the greeting comes the beginning of a HELLO that never ends.
            let byte = greeting.get(*sent).copied().unwrap_or(if *sent == greeting.len() { 0x04 } else { 0xc8 });
            if stream.write(&[byte]).is_ok() {
                *sent += 1;
                progress.add(1);
            }
        }
        std::thread::sleep(DRIP * 5);
    }
}

/// A connection of a program of the owner's, behind the handshake.
fn local(target: &Target) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(&target.router_socket).ok()?;
    stream.set_read_timeout(Some(crate::PATIENCE)).ok()?;
    let ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
    let length = u8::try_from(ready.len()).ok()?;
    stream.write_all(&[&greeting(b"NULL")[..], &[4, length], ready].concat()).ok()?;
    stream.read_exact(&mut [0; 64]).ok()?;
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    stream.read_exact(&mut vec![0; usize::from(head[1])]).ok()?;
    Some(stream)
}

pub(super) fn dribble(target: &Target, progress: &Progress) {
    let mut streams: Vec<UnixStream> = std::iter::from_fn(|| local(target)).take(DRIBBLING).collect();
    for stream in &mut streams {
        // A long frame of 16 MB is announced, for which libzmq reserves room.
        stream.write_all(&[&[2][..], &16_000_000_u64.to_be_bytes()].concat()).expect("the broker waits for more");
    }
    assert_eq!(streams.len(), DRIBBLING);
    while !progress.is_over() {
        for stream in &mut streams {
            stream.write_all(b"[").expect("the broker waits for more");
            progress.add(1);
        }
        std::thread::sleep(DRIP);
    }
}

pub(super) fn random_bytes(target: &Target, progress: &Progress) {
    let mut dice = Dice::of_this_run("random_bytes");
    while !progress.is_over() {
        let Ok(mut stream) = TcpStream::connect(target.router) else { continue };
        let mut bytes = if dice.below(2) == 0 { greeting(b"CURVE").to_vec() } else { Vec::new() };
        bytes.extend((0..dice.below(4_096)).map(|_| u8::try_from(dice.below(256)).unwrap_or_default()));
        // The broker may end the connection in the middle.
        let _ = stream.write_all(&bytes);
        progress.add(1);
        std::thread::sleep(DRIP / 5);
    }
}

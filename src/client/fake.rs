//! A broker made of a raw ROUTER and a script, for tests of what clients do.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kvbroker_protocol::{
    Answer, BrokerId, Form, HelloAnswer, Operation, Operations, Outcome, Outcomes, Reply, Request, SessionId, decode_request,
    encode_reply, reported_limits,
};
use uuid::Uuid;

use crate::endpoint::Endpoint;
use crate::keys::{KeyPair, PublicKey};
use crate::paths::{Dirs, RuntimeDir};
use crate::project::ProjectName;

/// What the script does with a request.
pub(crate) enum Act {
    Answer(Outcomes),
    Ignore,
    /// Ends without an answer, as a killed process does.
    Die,
}

pub(crate) fn ok(answer: Answer) -> Act {
    Act::Answer(Outcomes::One(Outcome { revision: Some(7), result: Ok(answer) }))
}

/// Runs until it is dropped or its script lets it die.
pub(crate) struct FakeBroker {
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    pub(crate) address: Option<SocketAddr>,
    publish: Sender<[Vec<u8>; 2]>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Place {
    pub(crate) _home: tempfile::TempDir,
    pub(crate) dirs: Dirs,
    pub(crate) project: ProjectName,
}

impl Place {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path()).unwrap();
        Place { _home: home, dirs, project: "lab".parse().unwrap() }
    }

    pub(crate) fn runtime(&self) -> RuntimeDir {
        self.dirs.create_runtime(&self.project).unwrap()
    }

    /// What a killed broker leaves behind, or a starting one writes.
    pub(crate) fn write_endpoint(&self, broker: u8) {
        let runtime = self.runtime();
        let endpoint = Endpoint {
            project: self.project.clone(),
            owner: "ann".into(),
            uuid: Uuid::from_bytes([broker; 16]),
            instance: Uuid::from_u128(9),
            epoch: 1,
            pid: 4_242,
            starttime_s: 1,
            router_socket: runtime.router_socket(),
            pub_socket: runtime.pub_socket(),
            tcp: None,
            public_key: Some(PublicKey::from_bytes([7; 32])),
        };
        endpoint.write(&runtime).unwrap();
    }

    /// A broker on this place's unix sockets.
    pub(crate) fn broker(&self, broker: u8, script: impl FnMut(&Operation) -> Act + Send + 'static) -> FakeBroker {
        let runtime = self.runtime();
        let fake = FakeBroker::start(&self.project, broker, Bind::Ipc(runtime.path()), script);
        self.write_endpoint(broker);
        fake
    }
}

pub(crate) enum Bind<'a> {
    Ipc(&'a Path),
    /// On 127.0.0.1; whoever knows the key is let in.
    Curve(&'a KeyPair),
    /// On 127.0.0.1, without encryption.
    Plain,
}

impl FakeBroker {
    pub(crate) fn start(
        project: &ProjectName,
        broker: u8,
        bind: Bind<'_>,
        mut script: impl FnMut(&Operation) -> Act + Send + 'static,
    ) -> Self {
        let context = zmq::Context::new();
        let router = context.socket(zmq::ROUTER).unwrap();
        let publisher = context.socket(zmq::XPUB).unwrap();
        router.set_linger(0).unwrap();
        publisher.set_linger(0).unwrap();
        let address = match bind {
            Bind::Ipc(directory) => {
                for (socket, name) in [(&router, "router.sock"), (&publisher, "pub.sock")] {
                    let path = directory.join(name);
                    let _ = std::fs::remove_file(&path);
                    socket.bind(&format!("ipc://{}", path.display())).unwrap();
                }
                None
            }
            Bind::Curve(keys) => {
                for socket in [&router, &publisher] {
                    socket.set_curve_server(true).unwrap();
                    socket.set_curve_secretkey(keys.secret().expose_bytes()).unwrap();
                    socket.bind("tcp://127.0.0.1:*").unwrap();
                }
                Some(port_of(&router))
            }
            Bind::Plain => {
                for socket in [&router, &publisher] {
                    socket.bind("tcp://127.0.0.1:*").unwrap();
                }
                Some(port_of(&router))
            }
        };
        let pub_port = address.map_or(0, |_| port_of(&publisher).port());
        let hello = HelloAnswer {
            protocol: 1,
            project: project.to_string(),
            owner: "ann".into(),
            broker: BrokerId([broker; 16]),
            session: SessionId::new(1, u64::from(broker)),
            pub_port,
            limits: reported_limits(),
            ..HelloAnswer::default()
        };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (publish, to_publish) = channel::<[Vec<u8>; 2]>();
        let (seen, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for frames in to_publish.try_iter() {
                    publisher.send_multipart(frames, 0).unwrap();
                }
                if router.poll(zmq::POLLIN, 5).unwrap() == 0 {
                    continue;
                }
                let frames = router.recv_multipart(0).unwrap();
                let request = decode_request(&frames[1]).unwrap();
                let act = match &request.operations {
                    Operations::One(Operation::Hello { .. }) => ok(Answer::Hello(Box::new(hello.clone()))),
                    operations => {
                        seen.lock().unwrap().push(request.clone());
                        answer(operations, &mut script)
                    }
                };
                match act {
                    Act::Answer(outcomes) => {
                        let mut body = Vec::new();
                        let reply = Reply { id: request.header.id, form: Form::Compact, retry_safe: None, outcomes };
                        encode_reply(&reply, &mut body);
                        router.send_multipart([frames[0].clone(), body], 0).unwrap();
                    }
                    Act::Ignore => {}
                    Act::Die => break,
                }
            }
        });
        FakeBroker { requests, address, publish, stop, thread: Some(thread) }
    }

    pub(crate) fn publish(&self, topic: Vec<u8>, body: Vec<u8>) {
        self.publish.send([topic, body]).unwrap();
    }
}

/// What the script does with a message: the first that is no answer counts, and so does a failure of the whole.
fn answer(operations: &Operations, script: &mut impl FnMut(&Operation) -> Act) -> Act {
    let Operations::Many(operations) = operations else { return script(&operations.as_slice()[0]) };
    let mut all = Vec::new();
    for operation in operations {
        match script(operation) {
            Act::Answer(Outcomes::One(outcome)) => all.push(outcome),
            other => return other,
        }
    }
    Act::Answer(Outcomes::Many(all))
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the fake broker failed");
        }
    }
}

fn port_of(socket: &zmq::Socket) -> SocketAddr {
    socket.get_last_endpoint().unwrap().unwrap().strip_prefix("tcp://").unwrap().parse().unwrap()
}

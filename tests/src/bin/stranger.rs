//! A program of the tests: says and hears on a machine's network what the test itself can't, being outside of it.
//!
//! ```text
//! stranger tell HOST:PORT        sends stdin as one datagram
//! stranger fetch HOST:PORT       prints what a catalog lists
//! stranger pretend PORT KIND     answers as a catalog that is none: endless, page, text or silence
//! ```
//!
//! `pretend` prints a line once it listens, and ends with stdin.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
/// More than any reader takes.
static ENDLESS_CHUNK: [u8; 1 << 16] = [b' '; 1 << 16];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["tell", to] => tell(to),
        ["fetch", from] => fetch(from),
        ["pretend", port, kind] => pretend(port, kind),
        _ => Err(io::Error::other("usage: stranger tell HOST:PORT | fetch HOST:PORT | pretend PORT KIND")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stranger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell(to: &str) -> io::Result<()> {
    let mut datagram = Vec::new();
    io::stdin().lock().read_to_end(&mut datagram)?;
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(&datagram, to)?;
    Ok(())
}

fn fetch(from: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /query.json HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.find('[').map_or("", |at| &answer[at..]);
    io::stdout().lock().write_all(body.as_bytes())
}

fn pretend(port: &str, kind: &str) -> io::Result<()> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("ready");
    let kind = kind.to_owned();
    // Both threads end with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kind = kind.clone();
            std::thread::spawn(move || answer(stream, &kind));
        }
    });
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

fn answer(mut stream: TcpStream, kind: &str) -> io::Result<()> {
    let mut request = [0; 4_096];
    let _ = stream.read(&mut request)?;
    let head = "HTTP/1.0 200 OK\nContent-type: text/plain\n\n";
    match kind {
        "endless" => {
            stream.write_all(format!("{head}[\n").as_bytes())?;
            loop {
                stream.write_all(&ENDLESS_CHUNK)?;
            }
        }
        "page" => stream.write_all(format!("{head}<html><body>It works!</body></html>").as_bytes()),
        "text" => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"),
        // Until the other side gives up.
        _ => io::copy(&mut stream, &mut io::sink()).map(drop),
    }
}

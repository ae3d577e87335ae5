//! The little HTTP that a catalog needs: GET (and HEAD) of a handful of pages, one
//! request per connection.
//!
//! - `httparse` reads the request's head; what it refuses is answered 400. Nothing
//!   after the head is read.
//! - Heads are bounded in bytes and fields ([`HEAD_BYTES_MAX`], `HEADERS_MAX`).
//! - CCTools' client asks with the whole URL in the request line, browsers with the
//!   path; both are understood.
//! - Every reply has a Content-Length and closes the connection, so that clients of
//!   either kind know where it ends.
//!
//! Why an own responder: docs/decisions/0004-kvcatalog-http.md.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Longest head of a request. A CCTools filter stands in it, as base64.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most header lines of a request.
const HEADERS_MAX: usize = 64;

/// The pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// For people.
    Html,
    /// A JSON array of all records.
    Json,
    /// Lines of `name value`, as old CCTools programs like them.
    Text,
}

/// What a request's head says so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The head is not complete.
    More,
    /// A page is wanted; `head_only` for HEAD.
    Get {
        /// Which one.
        page: Page,
        /// Only the reply's head is wanted.
        head_only: bool,
    },
    /// It can't be answered with a page.
    Refused(Refusal),
}

/// Why a request gets no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status and its name.
    pub status: (u16, &'static str),
    /// What to do instead.
    pub sentence: &'static str,
}

const BAD_REQUEST: Refusal =
    Refusal { status: (400, "Bad Request"), sentence: "This is not an HTTP request that a catalog understands." };
const BAD_FILTER: Refusal =
    Refusal { status: (400, "Bad Request"), sentence: "What follows /query/ must be a filter expression in base64." };
const TOO_LONG: Refusal =
    Refusal { status: (431, "Request Header Fields Too Large"), sentence: "The head of the request is longer than 8 KiB." };
const BAD_METHOD: Refusal = Refusal {
    status: (405, "Method Not Allowed"),
    sentence: "Only GET and HEAD. Updates go to this port by UDP, or to the next one by TCP.",
};
const NOT_FOUND: Refusal =
    Refusal { status: (404, "Not Found"), sentence: "There are / (for people), /query.json, /query.text and /query/FILTER." };
/// For a catalog that can't take on more replies.
pub const OVERLOADED: Refusal =
    Refusal { status: (503, "Service Unavailable"), sentence: "Too many slow readers at the moment; please try again." };

/// Reads what has come of a request's head.
pub fn parse(bytes: &[u8]) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Request::More,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Request::Refused(TOO_LONG),
        Err(_) => return Request::Refused(BAD_REQUEST),
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Request::Refused(BAD_METHOD),
    };
    match route(request.path.unwrap_or_default()) {
        Ok(page) => Request::Get { page, head_only },
        Err(refusal) => Request::Refused(refusal),
    }
}

fn route(target: &str) -> Result<Page, Refusal> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| rest.get(slash..).unwrap_or("/")),
        None => target,
    };
    let path = path.split('?').next().unwrap_or(path);
    match path {
        "/" | "/query.html" => Ok(Page::Html),
        "/query.json" => Ok(Page::Json),
        "/query.text" => Ok(Page::Text),
        // The filter itself is left to the asker: CCTools' clients apply it to what
        // they get anyway, and a 404 here would leave them without any answer.
        _ => match path.strip_prefix("/query/") {
            Some(filter) if is_base64(filter) => Ok(Page::Json),
            Some(_) => Err(BAD_FILTER),
            None => Err(NOT_FOUND),
        },
    }
}

fn is_base64(text: &str) -> bool {
    STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).is_ok()
}

/// The head of a reply with a body of `body_bytes` bytes.
pub fn reply_head(status: (u16, &str), content_type: &str, body_bytes: usize) -> String {
    let mut head = String::new();
    write!(
        head,
        "HTTP/1.1 {} {}\r\nServer: kvcatalog/{}\r\nConnection: close\r\nContent-Type: {content_type}; charset=utf-8\r\n\
         Content-Length: {body_bytes}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n",
        status.0,
        status.1,
        env!("CARGO_PKG_VERSION"),
    )
    .expect("writing to a String never fails");
    head
}

impl Page {
    /// Its Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Page::Html => "text/html",
            Page::Json => "application/json",
            Page::Text => "text/plain",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(head: &str) -> u16 {
        match parse(head.as_bytes()) {
            Request::More => 0,
            Request::Get { .. } => 200,
            Request::Refused(refusal) => refusal.status.0,
        }
    }

    #[test]
    fn paths_and_whole_urls_are_the_same() {
        for (target, page) in [
            ("/", Page::Html),
            ("/query.html", Page::Html),
            ("/query.json", Page::Json),
            ("/query.json?x=1", Page::Json),
            ("http://h:9097/query.json", Page::Json),
            ("http://h:9097", Page::Html),
            ("/query.text", Page::Text),
            ("/query/dHJ1ZQ==", Page::Json),
            ("/query/dHJ1ZQ", Page::Json),
        ] {
            for end in ["\r\n", "\n"] {
                let head = format!("GET {target} HTTP/1.0{end}Host: x{end}{end}");
                assert_eq!(parse(head.as_bytes()), Request::Get { page, head_only: false }, "{head:?}");
            }
        }
        assert_eq!(parse(b"HEAD / HTTP/1.1\r\n\r\n"), Request::Get { page: Page::Html, head_only: true });
    }

    #[test]
    fn what_is_no_page_gets_its_status() {
        assert_eq!(status("GET /nope HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status("GET /query/%00 HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET /../etc/passwd HTTP/1.1\r\n\r\n"), 404);
        assert_eq!(status("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"), 405);
        assert_eq!(status("\u{1}\u{2}\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/9.9\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\n"), 0);
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(status(&long), 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(status(&many), 431);
    }

    #[test]
    fn every_prefix_of_a_request_is_incomplete_and_none_panics() {
        let head = "GET /query.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head.as_bytes()[..end]), Request::More, "{end}");
        }
    }
}

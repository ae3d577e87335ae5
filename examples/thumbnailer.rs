//! A worker of the thumbnail service in docs/messaging.md: makes small pictures of large ones, until none is asked for any more.
//!
//! `cargo run --example thumbnailer -- NETID-a5`

use std::time::Duration;

use kvbroker::client::Client;
use kvbroker_protocol::{ErrorCode, Operation, Stored, Txn};

#[derive(serde::Deserialize)]
struct Wanted {
    picture: String,
    width: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let project = std::env::args().nth(1).ok_or("usage: thumbnailer PROJECT")?;
    let lab = Client::connect(&project)?;
    let queue = lab.queue("thumbnails");
    while let Some(job) = queue.pull::<Wanted>(Duration::from_secs(3600))? {
        let picture = lab.get(format!("picture/{}", job.value.picture))?;
        let picture = picture.and_then(|entry| entry.value.as_byte_string()).unwrap_or_default();
        let Some(small) = scaled(&picture, job.value.width) else {
            queue.bury(job.receipt.item, Some(job.receipt.token), "no PGM picture")?;
            continue;
        };
        // All of it or nothing: the job is done, here is the result, and one more was made in Rust.
        let key = format!("thumbnail/{}", job.value.picture).into_bytes();
        let result = Operation::Put { key, value: Stored::bytes(&small)?, condition: None, ttl_ms: None };
        let count = Operation::Incr { key: b"made/rust".to_vec(), by: 1 };
        match lab.txn(Txn { compares: vec![], then: vec![job.ack_in_txn(), result, count], otherwise: vec![] }) {
            // It took too long, and somebody else has the job: nothing was stored here.
            Err(error) if error.code() == Some(ErrorCode::LeaseLost) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// A PGM picture (P5, 8 bits) of this width: each of its pixels is the mean of those that it stands for.
fn scaled(picture: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut parts = picture.splitn(4, |byte| byte.is_ascii_whitespace());
    let (magic, columns, rows, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [columns, rows] = [columns, rows].map(|text| std::str::from_utf8(text).ok()?.parse::<usize>().ok());
    let (columns, rows, pixels) = (columns?, rows?, rest.strip_prefix(b"255\n")?);
    if magic != b"P5" || wanted == 0 || columns < wanted || rows == 0 || pixels.len() != columns.checked_mul(rows)? {
        return None;
    }
    let (width, height) = (wanted, (rows * wanted / columns).max(1));
    let mut small = format!("P5 {width} {height} 255\n").into_bytes();
    for y in 0..height {
        for x in 0..width {
            let (mut sum, mut count) = (0, 0);
            for row in y * rows / height..(y + 1) * rows / height {
                let line = &pixels[row * columns..][x * columns / width..(x + 1) * columns / width];
                sum += line.iter().map(|pixel| usize::from(*pixel)).sum::<usize>();
                count += line.len();
            }
            small.push((sum / count) as u8);
        }
    }
    Some(small)
}

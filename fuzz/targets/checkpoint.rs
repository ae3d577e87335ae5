//! What must hold for any file that is read as a checkpoint. An input is a byte of [`Mend`] flags and the file.
//!
//! - Nothing panics. Records ascend; a reader that comes to the end has given as many as the end says.
//! - The reader that goes on behind damage comes to an end, and gives all that the strict one gave before it stopped.

use kvbroker_log::{CHECKPOINT_FILE, CheckpointReader, LogError, SimStorage};

use super::mend::{Mend, mend_checkpoint};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// Its header was refused.
    Refused,
    /// Read in part.
    Damaged,
    /// Read to its end.
    Whole,
}

type Records = Vec<(Vec<u8>, Vec<u8>, u64)>;

/// Reads until the end or the first error.
fn read(reader: &mut CheckpointReader, records: &mut Records) -> Result<(), LogError> {
    while let Some(block) = reader.next_block()? {
        let before = records.len();
        records.extend(block.records().map(|record| (record.key.to_vec(), record.value.to_vec(), record.revision)));
        assert_eq!(records.len() - before, block.records as usize);
    }
    Ok(())
}

/// A checkpoint as a process finds it, whoever wrote it.
///
/// # Panics
/// If a rule is broken.
pub fn checkpoint(input: &[u8]) -> Became {
    let Some((&flags, bytes)) = input.split_first() else { return Became::Refused };
    let mut bytes = bytes.to_vec();
    mend_checkpoint(&mut bytes, Mend::from_byte(flags));
    let length = bytes.len() as u64;
    let disk = SimStorage::new();
    disk.overwrite(CHECKPOINT_FILE, Some(bytes));
    let Ok(mut strict) = CheckpointReader::open(&disk, CHECKPOINT_FILE) else { return Became::Refused };
    let mut records = Records::new();
    let result = read(&mut strict, &mut records);
    assert!(records.windows(2).all(|pair| pair[0].0 < pair[1].0), "the records ascend");
    match &result {
        Ok(()) => {
            let summary = strict.summary().expect("it came to the end");
            assert_eq!((summary.records, summary.file_bytes), (records.len() as u64, length));
        }
        Err(error) => {
            assert!(matches!(error.exit_code(), 11 | 13), "the disk gave no reason for this: {error}");
            assert!(strict.summary().is_none());
            // It stays where it is.
            let at = strict.offset();
            assert!(read(&mut strict, &mut Records::new()).is_err() && strict.offset() == at);
        }
    }
    let mut salvage = CheckpointReader::open(&disk, CHECKPOINT_FILE).expect("it was just opened");
    let (mut saved, mut passed) = (Records::new(), 0);
    while read(&mut salvage, &mut saved).is_err() {
        let before = salvage.offset();
        match salvage.skip_damage().expect("the disk has no reason to fail") {
            Some(bytes) => assert!(bytes > 0 && salvage.offset() == before + bytes),
            None => break,
        }
        passed += 1;
        assert!(passed <= length, "each step passes at least a byte");
    }
    assert_eq!(saved[..records.len()], records);
    if result.is_ok() { Became::Whole } else { Became::Damaged }
}

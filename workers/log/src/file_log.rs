//! [`FileLog`]: the log in segments on a [`Storage`].
//!
//! - One sync at a time: a header's `synced_through` is the last batch whose sync had returned when the header was written.
//! - A segment is ended before it gets too large; it is synced before the next one exists.
//! - The first error takes the log out of service for good. A failed sync is never retried.
//!
//! Caveat: in the interval mode [`Log::tick`] syncs on the caller's thread.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::batch::{BatchBuilder, Finished};
use crate::entropy::{Entropy, OsEntropy, random_u64, random_uuid};
use crate::error::LogError;
use crate::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentReason, segment_name,
};
use crate::log::{Log, LogStats, PersistLevel, Persisted, SyncMode, check_batch};
use crate::mark::{Mark, MarkFile};
use crate::reader::Chain;
use crate::recovery::{Recovered, Resume, recover};
use crate::replay::Replay;
use crate::report::RecoveryReport;
use crate::segment::create_segment;
use crate::segments::{SegmentInfo, Segments};
use crate::storage::{Storage, StorageFile};
use crate::sweep::PlantedBug;

/// A log under load writes its mark (a small extra sync) once in this time, in ms of its stamps.
const MARK_INTERVAL_MS: u64 = 1000;

/// How to open a [`FileLog`]. Start from [`LogOptions::new`] and change fields.
#[non_exhaustive]
pub struct LogOptions {
    /// When batches are synced.
    pub mode: SyncMode,
    /// A segment gets no further batch that would take it past this size, bytes.
    pub segment_bytes: u64,
    /// How much room is allocated ahead of the last batch at a time, bytes; 0 for none.
    pub allocate_bytes: u64,
    /// For a batch that is synced by itself, and has so many bytes or more, the room is only taken, and not written full of zeros.
    pub large_bytes: u64,
    /// Where uuid, epoch, salts and writer ids come from.
    pub entropy: Box<dyn Entropy>,
    pub(crate) bug: Option<PlantedBug>,
}

impl LogOptions {
    /// 64 MiB segments, 1 MiB allocated ahead, batches large from 128 KiB on, the system's entropy.
    pub fn new(mode: SyncMode) -> Self {
        let (segment_bytes, allocate_bytes, large_bytes) = (64 << 20, 1 << 20, 128 << 10);
        Self { mode, segment_bytes, allocate_bytes, large_bytes, entropy: Box::new(OsEntropy), bug: None }
    }
}

/// The log in segment files.
pub struct FileLog {
    storage: Arc<dyn Storage>,
    options: LogOptions,
    file: Box<dyn StorageFile>,
    header: SegmentHeader,
    mark: MarkFile,
    /// End of the last batch in the segment.
    offset: u64,
    /// Length of the segment's file.
    allocated: u64,
    chain: Chain,
    writer: u64,
    synced_through: u64,
    last_kind: BatchKind,
    last_sync_ms: Option<u64>,
    /// Stamp at which the mark was last written.
    marked_ms: u64,
    out_of_service: Option<String>,
    segments: Arc<Segments>,
    stats: LogStats,
    /// Header room for batches without groups.
    scratch: BatchBuilder,
}

impl fmt::Debug for FileLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLog")
            .field("segment", &self.header)
            .field("offset", &self.offset)
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

impl FileLog {
    /// Recovers the log in `storage`, giving what it holds to `replay` in order, and opens it for appending.
    ///
    /// When this returns, everything that `replay` saw is durable and an opening batch that names the sync mode has been synced.
    /// A storage without a log gets a new one. The directory must be locked (see [`DirLock`](crate::DirLock)) by the caller.
    ///
    /// # Errors
    /// `Damaged`, `NewerFormat` or `Foreign` leave the files as they were. I/O errors may come at any point; a later start
    /// begins again.
    pub fn open(
        storage: Arc<dyn Storage>,
        mut options: LogOptions,
        replay: &mut dyn Replay,
    ) -> Result<(Self, RecoveryReport), LogError> {
        let Recovered { mut report, chain, resume, mut segments, leftovers } = recover(&*storage, options.bug, replay)?;
        let random = |source| LogError::io("draw random numbers for", storage.path(""), source);
        if report.uuid == Uuid::nil() {
            report.uuid = random_uuid(&mut *options.entropy).map_err(random)?;
        }
        if report.new_epoch.is_some() {
            report.epoch = random_u64(&mut *options.entropy).map_err(random)?;
        }
        let writer = random_u64(&mut *options.entropy).map_err(random)?;
        let (file, header, offset) = match resume {
            Resume::Segment { file, header, offset } => (file, header, offset),
            Resume::NewSegment { number, reason } => {
                let header = next_header(&mut options, number, report.uuid, report.epoch, &chain, reason)
                    .map_err(|source| LogError::io("draw random numbers for", storage.path(""), source))?;
                let file = create_segment(&*storage, &header, options.bug)?;
                segments.push(SegmentInfo::new(&header, SEGMENT_HEADER_BYTES as u64));
                (file, header, SEGMENT_HEADER_BYTES as u64)
            }
        };
        let path = storage.path(&segment_name(header.number));
        let allocated = file.length().map_err(|source| LogError::io("read the length of", path, source))?;
        let mark = MarkFile::open(&*storage)?;
        let mut log = Self {
            storage,
            file,
            header,
            mark,
            offset,
            allocated,
            // Recovery has synced all of it.
            synced_through: chain.next_sequence - 1,
            chain,
            writer,
            last_kind: BatchKind::Opening,
            last_sync_ms: None,
            marked_ms: 0,
            out_of_service: None,
            segments: Arc::new(Segments::new(options.segment_bytes, report.checkpoint, leftovers, segments)),
            stats: LogStats::default(),
            scratch: BatchBuilder::new(),
            options,
        };
        log.append_empty(BatchKind::Opening, chain.last_stamp_ms)?;
        log.write_mark()?;
        Ok((log, report))
    }

    /// The log's name, kept for its life.
    pub fn uuid(&self) -> Uuid {
        self.header.uuid
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }

    /// The checkpoint and the segments, for who makes the one and removes the others.
    pub fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    /// The sync mode.
    pub fn mode(&self) -> SyncMode {
        self.options.mode
    }

    fn level(&self) -> PersistLevel {
        if self.synced_through + 1 == self.chain.next_sequence { PersistLevel::Synced } else { PersistLevel::Written }
    }

    fn check_in_service(&self) -> Result<(), LogError> {
        match &self.out_of_service {
            Some(why) => Err(LogError::OutOfService(why.clone())),
            None => Ok(()),
        }
    }

    /// Runs `work`; an error takes the log out of service.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, LogError>) -> Result<T, LogError> {
        self.check_in_service()?;
        work(self).inspect_err(|error| self.out_of_service = Some(error.to_string()))
    }

    fn io_error(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> LogError + use<> {
        let path = self.storage.path(&segment_name(self.header.number));
        move |source| LogError::io(action, path, source)
    }

    /// Appends and syncs a batch without groups.
    fn append_empty(&mut self, kind: BatchKind, stamp_ms: u64) -> Result<(), LogError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.begin(stamp_ms.max(self.chain.last_stamp_ms));
        let mut batch = scratch.finish().map_err(LogError::BadBatch)?;
        let result = self.write_batch(kind, &mut batch).and_then(|()| self.sync());
        self.scratch = scratch;
        result
    }

    fn write_batch(&mut self, kind: BatchKind, batch: &mut Finished<'_>) -> Result<(), LogError> {
        let bytes = batch.buffer.len() as u64;
        if self.offset > SEGMENT_HEADER_BYTES as u64 && self.offset + bytes > self.options.segment_bytes {
            self.end_segment(bytes)?;
        }
        self.make_room(bytes)?;
        let mut header = BatchHeader {
            kind: kind as u8,
            mode: self.options.mode.byte(),
            reserved: 0,
            salt: self.header.salt,
            writer: self.writer,
            sequence: self.chain.next_sequence,
            synced_through: self.synced_through,
            first_revision: self.chain.last_revision + 1,
            stamp_ms: batch.stamp_ms,
            offset: self.offset,
            payload_bytes: u32::try_from(batch.payload().len()).expect("it is below MAX_BATCH_BYTES"),
            groups: batch.groups,
            previous_crc: self.chain.previous_crc,
            payload_crc: crc32c::crc32c(batch.payload()),
            crc: 0,
        };
        header.encode_into(&mut batch.buffer[..BATCH_HEADER_BYTES]);
        self.file.write_at(batch.buffer, self.offset).map_err(self.io_error("write"))?;
        self.offset += bytes;
        self.allocated = self.allocated.max(self.offset);
        self.chain = Chain {
            next_sequence: header.sequence + 1,
            previous_crc: header.crc,
            last_revision: batch.last_revision.unwrap_or(self.chain.last_revision),
            last_stamp_ms: batch.stamp_ms,
            writer: Some(self.writer),
        };
        self.last_kind = kind;
        self.segments.grew(self.offset);
        self.stats.batches += 1;
        self.stats.records += u64::from(batch.records);
        Ok(())
    }

    /// Makes the file long enough for a batch, and for some behind it. For small ones that are synced one by one, it is written full of zeros:
    /// their syncs then have nothing new to make durable but their bytes. Else that is not worth writing everything twice.
    fn make_room(&mut self, batch_bytes: u64) -> Result<(), LogError> {
        let (needed, ahead) = (self.offset + batch_bytes, self.options.allocate_bytes);
        if needed <= self.allocated || ahead == 0 {
            return Ok(());
        }
        let target = self.allocated + (needed - self.allocated).next_multiple_of(ahead);
        let made = if self.options.mode == SyncMode::Always && batch_bytes < self.options.large_bytes {
            self.file.extend(self.allocated, target)
        } else {
            self.file.reserve(self.allocated, target)
        };
        made.map_err(self.io_error("extend"))?;
        self.allocated = target;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = Instant::now();
        self.file.sync().map_err(self.io_error("sync"))?;
        self.synced_through = self.chain.next_sequence - 1;
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.syncs += 1;
        self.stats.last_sync_us = took_us;
        self.stats.slowest_sync_us = self.stats.slowest_sync_us.max(took_us);
        Ok(())
    }

    /// Writes the mark if the last one is old: a busy log has no idle second in which it would be written.
    fn write_mark_if_old(&mut self) -> Result<(), LogError> {
        if self.chain.last_stamp_ms.saturating_sub(self.marked_ms) >= MARK_INTERVAL_MS { self.write_mark() } else { Ok(()) }
    }

    fn write_mark(&mut self) -> Result<(), LogError> {
        self.marked_ms = self.chain.last_stamp_ms;
        let mark = Mark { uuid: self.header.uuid, sequence: self.synced_through, segment: self.header.number };
        self.mark.write(&*self.storage, &mark)
    }

    /// Ends the segment and begins the next, into which so many bytes will be written at once.
    fn end_segment(&mut self, next_bytes: u64) -> Result<(), LogError> {
        if self.level() != PersistLevel::Synced {
            self.sync()?;
        }
        let (uuid, epoch, number) = (self.header.uuid, self.header.epoch, self.header.number + 1);
        let header = next_header(&mut self.options, number, uuid, epoch, &self.chain, SegmentReason::Full)
            .map_err(|source| LogError::io("draw random numbers for", self.storage.path(""), source))?;
        let file = create_segment(&*self.storage, &header, self.options.bug)?;
        // Only room is given back here; if it stays because of a crash, nothing reads it.
        if self.allocated > self.offset {
            self.file.set_length(self.offset).map_err(self.io_error("cut"))?;
        }
        self.file = file;
        self.header = header;
        self.offset = SEGMENT_HEADER_BYTES as u64;
        self.allocated = self.offset;
        // Before anybody hears of it: a checkpoint that begins now would take the room which the log needs to go on.
        if next_bytes > 0 {
            self.make_room(next_bytes)?;
        }
        self.segments.sealed(SegmentInfo::new(&self.header, self.offset));
        self.write_mark()
    }
}

impl Log for FileLog {
    fn append(&mut self, batch: &mut BatchBuilder) -> Result<Persisted, LogError> {
        self.guarded(|log| {
            let mut batch = batch.finish().map_err(LogError::BadBatch)?;
            check_batch(&batch, &log.chain)?;
            if batch.groups == 0 {
                return Ok(());
            }
            log.write_batch(BatchKind::Data, &mut batch)?;
            match log.options.mode {
                SyncMode::Always if log.options.bug == Some(PlantedBug::ReplyBeforeSync) => Ok(()),
                SyncMode::Always => {
                    log.sync()?;
                    log.write_mark_if_old()
                }
                SyncMode::Every(_) | SyncMode::Never => Ok(()),
            }
        })?;
        Ok(self.persisted())
    }

    fn persisted(&self) -> Persisted {
        let level = if self.options.bug == Some(PlantedBug::ReplyBeforeSync) { PersistLevel::Synced } else { self.level() };
        Persisted::new(level, self.chain.last_revision)
    }

    fn needs_marker(&self) -> bool {
        self.last_kind == BatchKind::Data && self.options.mode != SyncMode::Never && self.level() == PersistLevel::Synced
    }

    fn mark(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.guarded(|log| {
            log.append_empty(BatchKind::Marker, stamp_ms)?;
            log.write_mark()
        })
    }

    fn tick(&mut self, now_ms: u64) -> Result<Persisted, LogError> {
        self.guarded(|log| {
            let SyncMode::Every(interval) = log.options.mode else { return Ok(()) };
            let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
            let due = log.last_sync_ms.is_none_or(|last| now_ms.saturating_sub(last) >= interval_ms);
            if due {
                log.last_sync_ms = Some(now_ms);
                if log.level() != PersistLevel::Synced {
                    log.sync()?;
                    log.write_mark_if_old()?;
                }
            }
            Ok(())
        })?;
        Ok(self.persisted())
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.guarded(|log| if log.offset > SEGMENT_HEADER_BYTES as u64 { log.end_segment(0) } else { Ok(()) })
    }

    fn close(&mut self, stamp_ms: u64) -> Result<(), LogError> {
        self.guarded(|log| {
            if log.level() != PersistLevel::Synced {
                log.sync()?;
            }
            log.append_empty(BatchKind::CleanStop, stamp_ms)?;
            log.write_mark()
        })?;
        self.out_of_service = Some("it was closed".to_owned());
        Ok(())
    }

    fn oldest_revision(&self) -> u64 {
        self.segments.oldest_revision()
    }

    fn stats(&self) -> LogStats {
        let segments = &self.segments;
        let files = segments.list().len() + segments.leftovers().len();
        LogStats { bytes: segments.log_bytes() + segments.history_bytes(), segments: files as u64, ..self.stats }
    }
}

fn next_header(
    options: &mut LogOptions,
    number: u64,
    uuid: Uuid,
    epoch: u64,
    chain: &Chain,
    reason: SegmentReason,
) -> std::io::Result<SegmentHeader> {
    Ok(SegmentHeader {
        uuid,
        epoch,
        salt: random_u64(&mut *options.entropy)?,
        number,
        first_sequence: chain.next_sequence,
        base_revision: chain.last_revision,
        stamp_ms: chain.last_stamp_ms,
        previous_crc: chain.previous_crc,
        reason: reason as u8,
        mode: options.mode.byte(),
    })
}

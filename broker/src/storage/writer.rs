//! The one task that writes the log: takes what is queued, writes and syncs it, and tells those who wait.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::disk::{Disk, Durability, FileName, Pending, WriteError};
use super::index::Place;
use super::log::Health;
use super::queue::{Batch, Verdicts};
use super::record::{Kind, RECORD_HEADER_BYTES};
use super::snapshot::Snapshots;
use super::state::{State, damaged};
use crate::identity::GroupId;

/// Most bytes that are rewritten between two writes.
const REWRITE_BYTES_MAX: u64 = 1 << 20;

/// What the handles and the writer share.
pub(super) struct Shared {
    pub disk: Rc<dyn Disk>,
    pub state: RefCell<State>,
    pub snapshots: Rc<Snapshots>,
    /// Something was queued, or nobody is left.
    work: Notify,
    /// The queue became shorter.
    progress: Notify,
    abandoned: Cell<bool>,
}

impl Shared {
    pub fn new(disk: Rc<dyn Disk>, state: State, snapshots: Rc<Snapshots>) -> Rc<Shared> {
        Rc::new(Shared {
            disk,
            state: RefCell::new(state),
            snapshots,
            work: Notify::new(),
            progress: Notify::new(),
            abandoned: Cell::new(false),
        })
    }

    /// Makes a change, or refuses it, and queues `done` behind it.
    pub fn accept(
        &self,
        change: impl FnOnce(&mut State) -> io::Result<()>,
        done: impl FnOnce(io::Result<()>) + 'static,
    ) {
        let mut state = self.state.borrow_mut();
        let verdict = change(&mut state);
        state.then(Box::new(done), verdict);
        self.work.notify_one();
    }

    /// Makes a change at once; the future tells when it is durable.
    pub fn change(&self, change: impl FnOnce(&mut State) -> io::Result<()>) -> Pending<()> {
        let (tell, told) = oneshot::channel();
        self.accept(change, move |verdict| {
            let _ = tell.send(verdict);
        });
        Box::pin(async move { told.await.unwrap_or_else(|_| Err(io::Error::other("the log has stopped"))) })
    }

    pub async fn ready(&self) {
        loop {
            let progress = self.progress.notified();
            {
                let state = self.state.borrow();
                if state.queue.bytes() <= state.limits.queue_bytes_max {
                    return;
                }
            }
            progress.await;
        }
    }

    /// Nobody holds the log any more: what is queued is still written, then the writer ends.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.work.notify_one();
    }

    /// Reads entries from the segments and checks them.
    pub async fn read_entries(&self, entries: &[(GroupId, u64, Place)]) -> io::Result<Vec<Bytes>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let extents = entries.iter().map(|(_, _, place)| place.extent()).collect();
        let read = self.disk.read(extents).await?;
        let seal = self.state.borrow().seal;
        let mut payloads = Vec::with_capacity(read.len());
        for ((group, index, place), record) in entries.iter().zip(read) {
            let header = seal.decode(&record, place.segment, place.offset);
            let payload = record.slice(RECORD_HEADER_BYTES.min(record.len())..);
            let sound = header.is_some_and(|header| {
                header.group == *group
                    && header.index == *index
                    && matches!(header.kind, Kind::Entry | Kind::Rewrite)
                    && header.payload_checksum == crc32c::crc32c(&payload)
            });
            if !sound {
                let file = FileName::Segment(place.segment).to_file_name();
                let reason = format!("entry {index} in {file} at byte {}", place.offset);
                return Err(damaged(*group, &reason));
            }
            payloads.push(payload);
        }
        Ok(payloads)
    }
}

/// Writes until nobody is left and nothing is queued.
pub(super) async fn run(shared: Rc<Shared>) {
    loop {
        if shared.state.borrow().queue.is_empty() {
            if shared.abandoned.get() {
                return;
            }
            shared.work.notified().await;
        }
        // The error has been told to those whom it concerns, and is kept in the log's health.
        if write_next(&shared).await.is_err() {
            continue;
        }
        delete_oldest(&shared).await;
        rewrite_oldest(&shared).await;
    }
}

/// Writes one batch and syncs it: the group commit.
pub(super) async fn write_next(shared: &Shared) -> io::Result<()> {
    let batch = shared.state.borrow().batch();
    let Some(mut batch) = batch else {
        let verdicts = shared.state.borrow_mut().queue.complete_callbacks();
        tell(verdicts);
        return Ok(());
    };
    let durability = if batch.begins_segment { Durability::DataAndName } else { Durability::Data };
    let file = FileName::Segment(batch.segment);
    let buffers = std::mem::take(&mut batch.buffers);
    let offset = u64::from(batch.offset);
    let outcome = match shared.disk.write(file, offset, buffers, durability).await {
        Ok(()) => Ok(()),
        Err(error) => Err(repair(shared, &batch, error).await),
    };
    let verdicts = match &outcome {
        Ok(()) => shared.state.borrow_mut().complete(&batch),
        Err((error, health)) => shared.state.borrow_mut().fail(error, health.clone()),
    };
    shared.progress.notify_waiters();
    tell(verdicts);
    outcome.map_err(|(error, _)| error)
}

/// Takes a failed write off the disk again, so that the log still ends where the last durable record ends.
async fn repair(shared: &Shared, batch: &Batch, error: WriteError) -> (io::Error, Health) {
    let error = match error {
        WriteError::Sync(error) => {
            tracing::error!(%error, segment = batch.segment, "the log could not be synced; it accepts nothing more");
            let reason = format!("sync failed: {error}");
            return (error, Health::Failed(reason));
        }
        WriteError::Write(error) => error,
    };
    tracing::warn!(%error, segment = batch.segment, "the log could not be written");
    let file = FileName::Segment(batch.segment);
    let repaired = if batch.begins_segment {
        shared.disk.remove(file).await
    } else {
        shared.disk.truncate(file, u64::from(batch.offset)).await
    };
    let health = match (repaired, error.kind()) {
        (Err(repair), _) => Health::Failed(format!("{error}, and then: {repair}")),
        (Ok(()), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Health::Full,
        (Ok(()), _) => Health::Failed(format!("write failed: {error}")),
    };
    (error, health)
}

fn tell(verdicts: Verdicts) {
    for (done, verdict) in verdicts {
        done(verdict);
    }
}

/// Removes segments that nothing needs, oldest first and one after the other, so that a power cut leaves no gap.
async fn delete_oldest(shared: &Shared) {
    loop {
        let deletable = {
            let state = shared.state.borrow();
            state.segments.deletable(state.queue.durable())
        };
        let Some(number) = deletable else { return };
        if let Err(error) = shared.disk.remove(FileName::Segment(number)).await {
            tracing::warn!(%error, segment = number, "an old segment could not be removed");
            return;
        }
        shared.state.borrow_mut().segments.deleted(number);
    }
}

/// Repeats some of the last live entries of the oldest segment when the log has become wasteful.
async fn rewrite_oldest(shared: &Shared) {
    let entries = {
        let state = shared.state.borrow();
        if state.closed || state.queue.bytes() > state.limits.queue_bytes_max {
            return;
        }
        state.to_rewrite(REWRITE_BYTES_MAX)
    };
    let mut payloads = Vec::with_capacity(entries.len());
    for entry in entries {
        let (group, index, place) = entry;
        let cached = shared.state.borrow().cached(group, index, place);
        let read = match cached {
            Some(bytes) => Ok(vec![bytes]),
            None => shared.read_entries(&[entry]).await,
        };
        match read {
            Ok(read) => payloads.extend(read.into_iter().map(|payload| (entry, payload))),
            Err(error) => {
                let mut state = shared.state.borrow_mut();
                if state.is_at(group, index, place) {
                    tracing::error!(%error, "an entry could not be read back");
                    state.group(group).damage.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
    let mut state = shared.state.borrow_mut();
    for ((group, index, place), payload) in payloads {
        state.rewrite(group, index, place, payload);
    }
}

//! `openraft`'s log over the storage room's.
//!
//! Appends return at once and are reported durable in order; a vote is durable before it is given. `committed` is not
//! kept: after a restart a group applies anew from its snapshot once a leader tells what is committed.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures_util::stream::{self, Stream, TryStreamExt as _};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::raft::{Entry, LogId, Types, Vote, decode, encode};
use crate::storage::GroupLog;

const VOTE: u8 = 1;
const PURGED: u8 = 2;

/// Most bytes read from the log at once: for one message to a follower, or to be applied.
const READ_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
pub(super) struct RaftLog {
    log: GroupLog,
}

impl RaftLog {
    pub(super) fn new(log: GroupLog) -> RaftLog {
        RaftLog { log }
    }

    /// Up to where entries were purged, because a snapshot has them.
    pub(super) fn purged(&self) -> io::Result<Option<LogId>> {
        self.log.load(PURGED).map(|bytes| decode("purged log id", &bytes)).transpose()
    }

    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let raw = self.log.read(from..to, bytes_max).await?;
        raw.iter().map(|(index, bytes)| decode(&format!("log entry {index}"), bytes)).collect()
    }

    fn changed(&self, start: impl FnOnce(Box<dyn FnOnce(io::Result<()>)>)) -> impl Future<Output = io::Result<()>> {
        let (done, wait) = oneshot::channel();
        start(Box::new(move |result| {
            // Nobody waits when the group was shut down meanwhile.
            let _ = done.send(result);
        }));
        async move { wait.await.unwrap_or_else(|_| Err(io::Error::other("the log was closed"))) }
    }
}

fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for RaftLog {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(range);
        self.read(from, to, usize::MAX).await
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(range);
        let pieces = stream::try_unfold((self.clone(), from), move |(log, from)| async move {
            if from >= to {
                return Ok(None);
            }
            let entries = log.read(from, to, READ_BYTES_MAX).await?;
            // A restart applies thousands of entries: other groups' heartbeats must get their turn.
            tokio::task::yield_now().await;
            let next = from + entries.len() as u64;
            Ok::<_, io::Error>((next > from).then(|| (stream::iter(entries.into_iter().map(Ok)), (log, next))))
        });
        pieces.try_flatten()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.load(VOTE).map(|bytes| decode("vote", &bytes)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<Types> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_purged_log_id = self.purged()?;
        if let Some(purged) = last_purged_log_id {
            // A crash between the two steps of a purge leaves entries that a snapshot has replaced.
            self.log.purge_to(purged.index());
        }
        let next = self.log.next_index();
        let last = match next.checked_sub(1) {
            Some(last) if last >= self.log.first_index() => {
                self.read(last, next, usize::MAX).await?.pop().map(|entry| entry.log_id())
            }
            _ => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save(VOTE, encode(vote)?).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded =
            entries.into_iter().map(|entry| Ok((entry.index(), encode(&entry)?))).collect::<io::Result<Vec<_>>>()?;
        self.log.ready().await;
        self.log.append(encoded, |result| callback.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |id| id.index() + 1);
        self.changed(|done| self.log.truncate_from(from, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        // The order matters: a purged entry whose id is not known would leave a hole.
        self.log.save(PURGED, encode(&log_id)?).await?;
        self.log.purge_to(log_id.index());
        Ok(())
    }
}

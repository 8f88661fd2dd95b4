//! A group's snapshot: taken from the state at one moment, written while the state goes on, sent to a member, kept on disk.
//!
//! Its bytes are never gathered in memory. What the state keeps on its shelf is written from where it is; and once the
//! snapshot is on disk, it is kept there, so that neither the log nor anything else from before holds room for it.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::raft::{SnapshotMeta, decode, encode};
use crate::kept::Kept;
use crate::storage::{GroupLog, SnapshotWriter, StoredSnapshot};

/// Bytes that are read, checked and written before others have their turn.
const PIECE_BYTES: usize = 256 << 10;
/// Of small pieces, so many.
const PIECES_MAX: usize = 4096;

/// A state at one moment: its bytes are the head, then what is kept, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// What was copied.
    pub head: Bytes,
    /// What is the same as in the state.
    pub kept: Vec<Rc<Kept>>,
}

impl From<Vec<u8>> for Image {
    fn from(head: Vec<u8>) -> Image {
        Image { head: Bytes::from(head), kept: Vec::new() }
    }
}

impl Image {
    /// All of it in one piece, in memory: for small ones.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::from(&self.head[..]);
        for kept in &self.kept {
            bytes.extend_from_slice(&kept.bytes());
        }
        bytes.freeze()
    }

    async fn write(&self, writer: &mut SnapshotWriter) -> io::Result<()> {
        let head = in_pieces(&self.head);
        let kept = self.kept.iter().map(|kept| kept.bytes());
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for piece in head.chain(kept) {
            if bytes + piece.len() > PIECE_BYTES || pieces.len() >= PIECES_MAX {
                writer.write(std::mem::take(&mut pieces)).await?;
                bytes = 0;
            }
            if piece.len() > PIECE_BYTES {
                for part in in_pieces(&piece) {
                    writer.write(vec![part]).await?;
                }
                continue;
            }
            bytes += piece.len();
            pieces.push(piece);
        }
        writer.write(pieces).await
    }

    /// What is kept is in `data` from now on: the same bytes, on disk.
    async fn move_to(self, data: &Bytes) {
        let mut at = self.head.len();
        for (count, kept) in self.kept.into_iter().enumerate() {
            let from = at;
            at += kept.len();
            // Nobody else may have it any more.
            if Rc::strong_count(&kept) > 1 {
                kept.move_to(data.slice(from..at));
            }
            if count % PIECES_MAX == PIECES_MAX - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn in_pieces(bytes: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    (0..bytes.len()).step_by(PIECE_BYTES).map(|at| bytes.slice(at..bytes.len().min(at + PIECE_BYTES)))
}

/// What `openraft` passes on as a snapshot.
pub(super) enum Data {
    /// The group's own, or another's that was it.
    Stored(StoredSnapshot),
    /// On disk, and not the group's own yet.
    Arrived(SnapshotWriter),
}

/// The group's snapshot on disk.
///
/// One may be built while another arrives from the leader, and one begun before a [restart](super::replica) may end
/// after it. The log is purged up to the newest, so an older one must never take its place: writers take turns, and a
/// late one leaves things as they are.
#[derive(Clone)]
pub(super) struct Snapshots {
    log: GroupLog,
    turn: Rc<Mutex<()>>,
    newest: Rc<RefCell<Option<(SnapshotMeta, StoredSnapshot)>>>,
}

impl Snapshots {
    pub(super) fn new(log: GroupLog) -> Snapshots {
        Snapshots { log, turn: Rc::default(), newest: Rc::default() }
    }

    /// The newest. Never waits: the group goes on while another is written.
    pub(super) fn newest(&self) -> Option<(SnapshotMeta, StoredSnapshot)> {
        self.newest.borrow().clone()
    }

    /// Bytes of the newest.
    pub(super) fn bytes(&self) -> u64 {
        self.newest.borrow().as_ref().map_or(0, |(_, stored)| stored.data.len() as u64)
    }

    fn newer_than(&self, meta: &SnapshotMeta) -> Option<StoredSnapshot> {
        let newest = self.newest.borrow();
        newest.as_ref().filter(|(newest, _)| meta.last_log_id < newest.last_log_id).map(|(_, stored)| stored.clone())
    }

    fn is_newest(&self, meta: &SnapshotMeta, stored: &StoredSnapshot) {
        self.newest.replace(Some((meta.clone(), stored.clone())));
    }

    /// Reads and checks what is on disk, at the start.
    pub(super) async fn recover(&self) -> io::Result<Option<(SnapshotMeta, StoredSnapshot)>> {
        let _turn = self.turn.lock().await;
        let Some(reader) = self.log.read_snapshot().await? else { return Ok(None) };
        let meta: SnapshotMeta = decode("snapshot meta", reader.meta())?;
        let stored = reader.map().await?;
        self.is_newest(&meta, &stored);
        Ok(self.newest())
    }

    /// Begins one that arrives from elsewhere.
    pub(super) fn begin(&self, meta: &SnapshotMeta) -> io::Result<SnapshotWriter> {
        self.log.begin_snapshot(encode(meta)?)
    }

    /// Writes what was taken from the state. Gives the newest there is.
    pub(super) async fn write(&self, meta: &SnapshotMeta, image: Image) -> io::Result<StoredSnapshot> {
        let _turn = self.turn.lock().await;
        if let Some(newer) = self.newer_than(meta) {
            return Ok(newer);
        }
        let mut writer = self.begin(meta)?;
        image.write(&mut writer).await?;
        let stored = writer.finish().await?;
        self.is_newest(meta, &stored);
        image.move_to(&stored.data).await;
        Ok(stored)
    }

    /// Makes one that has come from elsewhere the group's own.
    pub(super) async fn install(&self, meta: &SnapshotMeta, data: Data) -> io::Result<StoredSnapshot> {
        let _turn = self.turn.lock().await;
        let stored = match data {
            Data::Stored(stored) => self.log.write_snapshot(encode(meta)?, in_pieces(&stored.data)).await?,
            Data::Arrived(writer) => writer.finish().await?,
        };
        self.is_newest(meta, &stored);
        Ok(stored)
    }
}

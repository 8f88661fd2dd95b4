//! Moves what is kept out of memory when there is too much of it.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::disk::Disk;
use crate::kept::Shelf;

/// Most bytes that are moved at once; a single larger piece goes alone.
const SPILL_BYTES_MAX: usize = 1 << 20;
/// From an attempt that failed to the next.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until it is stopped, or the disk has no place for it.
pub(super) async fn run(disk: Rc<dyn Disk>, shelf: Shelf) {
    let mut failing = false;
    loop {
        shelf.over().await;
        let taken = shelf.take_oldest(SPILL_BYTES_MAX);
        match disk.spill(taken.iter().map(|kept| kept.bytes()).collect()).await {
            Ok(spilt) => {
                for (kept, bytes) in taken.iter().zip(spilt) {
                    kept.move_to(bytes);
                }
                if std::mem::take(&mut failing) {
                    tracing::info!("queued messages are moved out of memory again");
                }
            }
            Err(error) => {
                shelf.put_back(&taken);
                drop(taken);
                if error.kind() == io::ErrorKind::Unsupported {
                    return;
                }
                if !std::mem::replace(&mut failing, true) {
                    let bytes = shelf.in_memory_bytes();
                    tracing::warn!(%error, bytes, "queued messages stay in memory: the data directory takes no more");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

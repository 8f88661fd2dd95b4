//! A disk that forgets.
/// For nodes without a data directory.
#[derive(Default)]
pub struct MemoryDisk {}

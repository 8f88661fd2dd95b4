//! Real files.
/// Real files in one directory.
pub struct FileDisk {}
impl FileDisk {
    /// Opens the directory `path`, making it if needed, and starts the threads.
    pub fn open(_path: impl AsRef<std::path::Path>) -> std::io::Result<FileDisk> {
        unimplemented!()
    }
}

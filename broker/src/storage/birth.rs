//! Who this node is: a small file in the data directory, made once, that also counts the starts.
//!
//! Read and written at start-up, before any runtime turns. An unreadable one stops the start: a node that took a new name
//! would have forgotten its votes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::identity::{Incarnation, NodeId, Origin};

const FILE: &str = "node";
const NEW_FILE: &str = "node.new";

/// Counts one more start of the node whose data is in `directory`. Where none has been yet, the node becomes `fresh`.
/// Durable when this returns.
pub fn register_start(directory: &Path, fresh: NodeId) -> io::Result<Origin> {
    fs::create_dir_all(directory)?;
    let path = directory.join(FILE);
    let origin = match fs::read_to_string(&path) {
        Ok(text) => {
            let Origin { node, incarnation } = parse(&text).ok_or_else(|| {
                let message =
                    format!("{} is damaged: restore it, or empty the directory to join as a new node", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            Origin { node, incarnation: Incarnation(incarnation.0 + 1) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Origin { node: fresh, incarnation: Incarnation(1) },
        Err(error) => return Err(error),
    };
    let new = directory.join(NEW_FILE);
    let mut file = File::create(&new)?;
    file.write_all(print(origin).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(origin)
}

fn print(origin: Origin) -> String {
    let line = format!("{} {}", origin.node, origin.incarnation.0);
    format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))
}

fn parse(text: &str) -> Option<Origin> {
    let mut words = text.trim_end().split(' ');
    let node = NodeId(u64::from_str_radix(words.next()?, 16).ok()?);
    let incarnation = Incarnation(words.next()?.parse().ok()?);
    let origin = Origin { node, incarnation };
    // The checksum, and everything else about it.
    (print(origin) == text).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_and_counts_its_starts() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        for start in 1..4 {
            let origin = register_start(&data, NodeId(100 + start)).unwrap();
            assert_eq!(origin, Origin { node: NodeId(101), incarnation: Incarnation(start) });
        }
    }

    #[test]
    fn a_damaged_name_stops_the_start() {
        let directory = tempfile::tempdir().unwrap();
        register_start(directory.path(), NodeId(0xabc)).unwrap();
        let path = directory.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut spoilt = good.clone();
            spoilt[byte] ^= 1;
            fs::write(&path, spoilt).unwrap();
            let error = register_start(directory.path(), NodeId(1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {byte}: {error}");
        }
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(register_start(directory.path(), NodeId(1)).is_err());
    }
}

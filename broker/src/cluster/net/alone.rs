//! No network: a cluster of one.

use std::io;

use super::{BoxStream, Listener, Net};
use crate::cluster::mesh::LocalFuture;

/// Reaches nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct AloneNet;

fn nobody<T: 'static>() -> LocalFuture<io::Result<T>> {
    Box::pin(std::future::ready(Err(io::Error::new(io::ErrorKind::Unsupported, "this node is a cluster of one"))))
}

impl Net for AloneNet {
    fn listen(&self, _address: &str) -> LocalFuture<io::Result<Box<dyn Listener>>> {
        nobody()
    }

    fn connect(&self, _address: &str) -> LocalFuture<io::Result<BoxStream>> {
        nobody()
    }

    fn resolve(&self, _peer: &str) -> LocalFuture<io::Result<Vec<String>>> {
        nobody()
    }
}

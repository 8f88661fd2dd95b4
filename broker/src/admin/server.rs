//! The accept loop: one request on each connection, bounded in number and in time.
//!
//! Deliberately absent: connections that are kept alive. Probes, scrapes and operators ask seldom, and one deadline over
//! the whole exchange then bounds a client that is slow in whatever it does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::limits::{ACCEPT_RETRY_MS, ADMIN_CONNECTIONS_MAX, ADMIN_EXCHANGE};

/// Accepts until it is dropped. No failed accept ends it.
pub(super) async fn run(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(permit) = room.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            let _permit = permit;
            exchange(stream, router).await;
        });
    }
}

async fn exchange(stream: TcpStream, router: Router) {
    // A request is answered in one write: nothing is gained by waiting. If it fails, so will the rest.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    match timeout(ADMIN_EXCHANGE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection broke off"),
        Err(_) => tracing::debug!("an admin connection took too long"),
    }
}

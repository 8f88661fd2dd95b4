//! `GET /healthz` and `GET /readyz`: whether the process turns, and whether it is of use to clients now.
//!
//! Deliberately absent: what makes a node ready. The cluster's room decides that, and says why not in words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::Shared;
use crate::limits::HEARTBEAT_SILENCE_MAX;

pub(super) async fn alive(State(shared): State<Arc<Shared>>) -> Response {
    match shared.pulse.stopped(Instant::now()) {
        None => "ok\n".into_response(),
        Some(silence) => unavailable(&format!("not healthy: {}", stands_still(silence))),
    }
}

pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match why_not_ready(&shared) {
        Some(why) => unavailable(&format!("not ready: {why}")),
        // Clients are served by the others' replicas.
        None => {
            let status = shared.node.cluster.status.borrow();
            let lines = std::iter::once("ready".to_string()).chain(status.describe_damaged());
            lines.map(|line| line + "\n").collect::<String>().into_response()
        }
    }
}

/// Why this node is of no use to clients now, in words.
pub(super) fn why_not_ready(shared: &Shared) -> Option<String> {
    if let Some(silence) = shared.pulse.stopped(Instant::now()) {
        // A thread that stands still can't take back the status that it once gave.
        return Some(stands_still(silence));
    }
    let status = shared.node.cluster.status.borrow();
    if !status.not_ready.is_empty() {
        Some(status.not_ready.clone())
    } else if status.cluster == 0 {
        Some("has not joined a cluster yet".to_owned())
    } else {
        None
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn stands_still(silence: Duration) -> String {
    format!("the cluster's thread has not moved for {} s", silence.as_secs())
}

/// Tells whether a heartbeat still moves, by looking at it when asked.
pub(super) struct Pulse {
    heartbeat: Arc<AtomicU64>,
    /// The last beat seen, and when it was first seen.
    seen: Mutex<Option<(u64, Instant)>>,
}

impl Pulse {
    pub(super) fn new(heartbeat: Arc<AtomicU64>) -> Pulse {
        Pulse { heartbeat, seen: Mutex::new(None) }
    }

    /// For how long the heartbeat was seen not to move, when that is too long. A heart that has not begun to beat is
    /// not stopped: a node may have much to recover before it starts.
    pub(super) fn stopped(&self, now: Instant) -> Option<Duration> {
        let beat = self.heartbeat.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((last, since)) if last == beat && beat != 0 => {
                Some(now.duration_since(since)).filter(|silence| *silence >= HEARTBEAT_SILENCE_MAX)
            }
            _ => {
                *seen = Some((beat, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heart_that_has_begun_and_stands_still_is_stopped() {
        let heartbeat = Arc::new(AtomicU64::new(0));
        let pulse = Pulse::new(heartbeat.clone());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pulse.stopped(at(0)), None);
        assert_eq!(pulse.stopped(at(1000)), None, "it has not begun");
        heartbeat.store(1, Ordering::Relaxed);
        assert_eq!(pulse.stopped(at(1000)), None);
        assert_eq!(pulse.stopped(at(1029)), None);
        assert_eq!(pulse.stopped(at(1030)), Some(Duration::from_secs(30)));
        heartbeat.store(2, Ordering::Relaxed);
        assert_eq!(pulse.stopped(at(1031)), None, "it beats again");
        assert_eq!(pulse.stopped(at(1061)), Some(Duration::from_secs(30)));
    }
}

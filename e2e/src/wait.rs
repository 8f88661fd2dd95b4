//! Waiting for a condition, with a deadline. What was last seen is the reason when it does not come.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(250);

/// What a look at the world found.
pub enum Seen<T> {
    /// The condition holds.
    Yes(T),
    /// Not yet, and this is how it stands, in words.
    NotYet(String),
}

/// Looks until `look` says yes; an error of `look` counts as "not yet" (an API server may be busy), the last word is the reason.
pub async fn until<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Seen<T>>>,
{
    let end = Instant::now() + deadline;
    loop {
        let last = match look().await {
            Ok(Seen::Yes(found)) => return Ok(found),
            Ok(Seen::NotYet(state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("{what}: not within {} s; last seen: {last}", deadline.as_secs());
        }
        sleep(POLL).await;
    }
}

/// A condition that is either there or not.
pub fn seen(holds: bool, otherwise: impl FnOnce() -> String) -> Seen<()> {
    if holds { Seen::Yes(()) } else { Seen::NotYet(otherwise()) }
}

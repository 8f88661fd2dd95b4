//! The operator at rest.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use mqtt_e2e::audit::Audit;
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::installation::Installation;
use mqtt_e2e::wait::{self, seen};
use tokio::time::{Instant, sleep};

use super::TRAFFIC_DEADLINE;

const REST: Duration = Duration::from_secs(120);
/// Without a write for so long, the last change is over.
const CALM: Duration = Duration::from_secs(5);
/// Watches that are begun anew, the lease that is looked at.
const READS_MAX: usize = 40;

pub async fn the_operator_at_rest_writes_nothing(cluster: &Cluster) -> Result<()> {
    let broker = Installation::on(cluster);
    broker.available(3, TRAFFIC_DEADLINE).await?;
    let user = broker.operator_user().await?;
    // What it did to get here must be in the log, or the log proves nothing.
    let whole = Audit::whole(cluster).await?;
    let writes = || -> Result<usize> { Ok(whole.requests_of(&user)?.iter().filter(|one| one.is_write()).count()) };
    ensure!(writes()? > 0, "the audit log has no write of {user}: is that its name?");
    broker.nobody_connected(2 * TRAFFIC_DEADLINE).await?;
    let last = Cell::new((writes()?, Instant::now()));
    wait::until("the last change is over", TRAFFIC_DEADLINE, async || {
        let now = writes()?;
        if now != last.get().0 {
            last.set((now, Instant::now()));
        }
        Ok(seen(last.get().1.elapsed() >= CALM, || format!("{now} writes")))
    })
    .await?;

    let audit = Audit::from_now(cluster).await?;
    let end = Instant::now() + REST;
    let requests = loop {
        let requests = audit.requests_of(&user)?;
        if let Some(write) = requests.iter().find(|request| request.is_write()) {
            bail!("the operator at rest wrote: {write}");
        }
        if Instant::now() >= end {
            break requests;
        }
        sleep(Duration::from_secs(1)).await;
    };
    println!("the operator at rest: {} reads in {} s, no write", requests.len(), REST.as_secs());
    ensure!(requests.len() <= READS_MAX, "the operator at rest read {} times: {requests:?}", requests.len());
    Ok(())
}

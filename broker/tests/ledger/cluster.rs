//! Real broker processes on loopback, started by the lines that `mqtt-broker local --print` prints, killed and asked.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Dial, Wire};

/// How long a node may take until it is ready.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

const ADMIN_PORT_OFFSET: u16 = 1000;
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// One node: how to start it, and its process while it runs.
pub struct Node {
    pub address: SocketAddr,
    admin: SocketAddr,
    command: Vec<String>,
    data_dir: PathBuf,
    environment: Vec<(String, String)>,
    output: PathBuf,
    process: Option<Child>,
}

/// What the admin API says of the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    pub total: u64,
    pub without_leader: u64,
    pub under_replicated: u64,
}

/// Prepares a cluster in `directory` and starts its nodes.
pub fn start(directory: &Path, nodes: u16, environment: &[(&str, &str)]) -> Result<Vec<Node>> {
    prepare(directory, nodes, environment, &[])
}

/// The same, with the data of the nodes in `small` on a file system of their own that holds little.
pub fn start_on_small_disks(directory: &Path, nodes: u16, small: &[usize]) -> Result<Vec<Node>> {
    prepare(directory, nodes, &[], small)
}

/// Mounts a small file system over the first argument, for the broker's eyes alone, and becomes the broker.
const ON_SMALL_DISK: &str = "mkdir -p \"$0\" && mount -t tmpfs -o size=32m mqtt \"$0\" && exec \"$@\"";

fn prepare(directory: &Path, nodes: u16, environment: &[(&str, &str)], small: &[usize]) -> Result<Vec<Node>> {
    let named = std::env::var_os("LEDGER_BROKER").filter(|_| environment.is_empty());
    let program = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_mqtt-broker").into());
    let port = free_ports(nodes)?;
    let mut arguments = vec!["local".to_owned(), "--print".to_owned(), "--nodes".to_owned(), nodes.to_string()];
    arguments.extend(["--port".to_owned(), port.to_string(), "--data-dir".to_owned()]);
    let printed = Command::new(&program).args(arguments).arg(directory).output();
    let printed = printed.with_context(|| format!("running {}", program.display()))?;
    ensure!(printed.status.success(), "local --print: {}", String::from_utf8_lossy(&printed.stderr));
    let lines = String::from_utf8(printed.stdout)?;
    let nodes = lines.lines().enumerate().map(|(number, line)| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let address: SocketAddr = words.next().context("an empty line")?.parse()?;
        let admin = SocketAddr::new(address.ip(), address.port() + ADMIN_PORT_OFFSET);
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let data_dir = directory.join(format!("node-{number}"));
        let mut command: Vec<String> = words.collect();
        if small.contains(&number) {
            let mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_SMALL_DISK].map(str::to_owned);
            let data_dir = data_dir.to_str().context("a path that is not text")?.to_owned();
            command = mount.into_iter().chain([data_dir]).chain(command).collect();
        }
        let mut node = Node {
            address,
            admin,
            command,
            data_dir,
            environment: environment.collect(),
            output: directory.join(format!("node-{number}.output")),
            process: None,
        };
        node.start()?;
        Ok(node)
    });
    nodes.collect()
}

/// A port P such that P + i, P + 1000 + i and P + 2000 + i are free, below the range that the kernel gives out.
fn free_ports(nodes: u16) -> Result<u16> {
    let first = 12_000 + (std::process::id() % 1000) as u16 * 10;
    for step in 0..50 {
        let port = first + step * 10;
        let all = (0..nodes).flat_map(|node| [0, 1000, 2000].map(|offset| port + offset + node));
        if all.map(|port| TcpListener::bind(("127.0.0.1", port))).all(|bound| bound.is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free ports from {first} on")
}

impl Node {
    /// For the clients.
    pub fn dial(&self) -> Dial {
        let address = self.address;
        Rc::new(move || {
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let wire: Wire = Box::new(stream);
                Ok(wire)
            })
        })
    }

    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.address);
        let output = std::fs::File::options().create(true).append(true).open(&self.output)?;
        let [program, arguments @ ..] = self.command.as_slice() else { bail!("an empty command") };
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Fails when the process ended by itself.
    pub fn check(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.try_wait()? {
            let mut output = String::new();
            std::fs::File::open(&self.output)?.read_to_string(&mut output)?;
            let tail = output.char_indices().rev().nth(4000).map_or(0, |(index, _)| index);
            bail!("{} ended by itself: {status}\n{}", self.address, &output[tail..]);
        }
        Ok(())
    }

    pub async fn until_ready(&mut self) -> Result<Duration> {
        let start = Instant::now();
        loop {
            self.check()?;
            let answer = self.get("/readyz").await;
            if matches!(answer, Ok((200, _))) {
                return Ok(start.elapsed());
            }
            if start.elapsed() > READY_TIMEOUT {
                bail!("{} is not ready after {READY_TIMEOUT:?}: {answer:?}", self.address);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A path as the node's process sees it.
    pub fn inside(&self, path: &Path) -> Result<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.process_id().context("it does not run")?));
        Ok(root.join(path.strip_prefix("/")?))
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) -> Result<()> {
        let process = self.process_id().context("it does not run")?.to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &process]).status()?;
        ensure!(status.success(), "kill -{name} {process}: {status}");
        Ok(())
    }

    /// Waits until any one node may die.
    pub async fn until_failover_ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.get("/api/v1/cluster").await;
            if matches!(&answer, Ok((200, body)) if body.contains("\"failover_ready\":true")) {
                return Ok(());
            }
            ensure!(start.elapsed() < READY_TIMEOUT, "{} is not ready to lose a node: {answer:?}", self.address);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the node says of its data directory that it is in this state: `healthy`, `full` or `failed`.
    pub async fn until_storage(&self, state: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.get("/api/v1/node").await;
            if matches!(&answer, Ok((200, body)) if body.contains(&format!("\"storage\":{{\"state\":\"{state}\""))) {
                return Ok(());
            }
            ensure!(start.elapsed() < READY_TIMEOUT, "{} does not say '{state}': {answer:?}", self.address);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn shards(&self) -> Result<Shards> {
        let (status, body) = self.get("/api/v1/cluster").await?;
        ensure!(status == 200, "status {status}: {body}");
        let answer: serde_json::Value = serde_json::from_str(&body)?;
        let number = |name: &str| {
            let value = answer.pointer(&format!("/shards/{name}")).and_then(serde_json::Value::as_u64);
            value.with_context(|| format!("no shards.{name} in {body}"))
        };
        Ok(Shards {
            total: number("total")?,
            without_leader: number("without_leader")?,
            under_replicated: number("under_replicated")?,
        })
    }

    /// A figure of `/metrics` that has no labels.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let (status, body) = self.get("/metrics").await?;
        ensure!(status == 200, "status {status}: {body}");
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no {name} in {body}"))?.parse()?)
    }

    /// A plain HTTP request: the status and the body.
    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let answer = timeout(HTTP_TIMEOUT, async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        });
        let answer = answer.await.context("no answer in time")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

//! The Kubernetes that everything runs on: the local one of three nodes that this folder brings up, one made by `kind`, or one
//! that `KUBECONFIG` names.
//!
//! Only the local one has nodes that may be broken. The others must be asked for by name: nothing is ever installed into a cluster
//! just because the environment happens to point at it.
//!
//! Deliberately absent: what is installed on it (see `installation`).

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::Program;
use crate::service::Endpoint;

/// The longest that building all components may take, from an empty cache on a busy machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(45 * 60);
/// The longest that the images may take, the release build included.
const IMAGES_DEADLINE: Duration = Duration::from_secs(45 * 60);
/// The longest that a cluster may take to come up or go down.
const UP_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// What one machine's run holds while it uses the cluster; the scripts take the same one.
const RUNTIME: &str = "/run/mqtt-e2e";
/// The tag under which `e2e/images` makes images.
const LOCAL_TAG: &str = "dev";
const NAMESPACE: &str = "/run/netns/mqtt-e2e";
const KIND_NAME: &str = "mqtt-e2e";
const KIND_NODES: &str = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n- role: worker\n- role: worker\n- role: worker\n";

/// Which Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// Three nodes on this machine, made of namespaces; needs root, no registry and no containers.
    Local,
    /// A cluster made by `kind` for this run, and deleted after it.
    Kind,
    /// The cluster that `KUBECONFIG` names; nothing but our own namespaces is touched.
    Kubeconfig,
}

/// A Kubernetes cluster, held for this run.
pub struct Cluster {
    place: Place,
    registry: Option<String>,
    lock: Option<File>,
}

impl Cluster {
    /// Chooses the place and, for the local one, holds the machine against other runs.
    pub fn hold(place: Place, registry: Option<String>) -> Result<Self> {
        let lock = match place {
            Place::Local => Some(lock_machine()?),
            Place::Kind => None,
            Place::Kubeconfig if std::env::var_os("KUBECONFIG").is_none() => {
                bail!("KUBECONFIG is not set: set it to the cluster to use, or leave out '--on kubeconfig'")
            }
            Place::Kubeconfig if registry.is_none() => bail!(
                "a cluster of your own needs the images from a registry: build Dockerfile.broker and Dockerfile.operator, push them \
                 as REGISTRY/mqtt-broker:{version} and REGISTRY/mqtt-operator:{version}, and say '--registry REGISTRY'",
                version = env!("CARGO_PKG_VERSION")
            ),
            Place::Kubeconfig => None,
        };
        Ok(Self { place, registry, lock })
    }

    /// Where it is, in words.
    pub fn describe(&self) -> String {
        match self.place {
            Place::Local => "a local Kubernetes of three nodes, made of namespaces of this machine".into(),
            Place::Kind => format!("a cluster made by kind, called {KIND_NAME}"),
            Place::Kubeconfig => "the cluster that KUBECONFIG names".into(),
        }
    }

    /// Whether its nodes may be killed and cut off, and connections be followed to their pods.
    pub fn is_local(&self) -> bool {
        self.place == Place::Local
    }

    /// Builds what is missing and brings up a fresh cluster, telling its progress on the screen.
    pub async fn up(&self) -> Result<()> {
        match self.place {
            Place::Local => {
                self.script("build").deadline(BUILD_DEADLINE).shown().await?;
                // Whoever works on the tests alone need not compile the programs anew.
                if std::env::var_os("MQTT_E2E_KEEP_IMAGES").is_none() {
                    self.script("../images").deadline(IMAGES_DEADLINE).shown().await?;
                }
                // What a run that was killed has left behind.
                if Path::new(NAMESPACE).exists() {
                    self.script("down").args(["--wipe"]).deadline(UP_DEADLINE).shown().await?;
                }
                self.script("up").deadline(UP_DEADLINE).shown().await
            }
            Place::Kind => {
                self.script("../images").deadline(IMAGES_DEADLINE).shown().await?;
                let create = ["create", "cluster", "--name", KIND_NAME, "--config", "-"];
                let created =
                    Program::new("kind").args(create).input(KIND_NODES.into()).deadline(UP_DEADLINE).output().await;
                created.context(
                    "is kind installed, and no cluster of an earlier run left ('kind delete cluster --name mqtt-e2e')?",
                )?;
                for name in ["mqtt-broker", "mqtt-operator"] {
                    let archive = self.image_archive(name).await?;
                    let load = ["load", "image-archive", &archive, "--name", KIND_NAME];
                    Program::new("kind").args(load).deadline(UP_DEADLINE).output().await?;
                }
                Ok(())
            }
            Place::Kubeconfig => self.kubectl(["version"]).output().await.map(drop),
        }
    }

    /// Takes down what [`Cluster::up`] brought up.
    pub async fn down(&self) -> Result<()> {
        match self.place {
            Place::Local => self.script("down").args(["--wipe"]).deadline(UP_DEADLINE).shown().await,
            Place::Kind => {
                let delete = ["delete", "cluster", "--name", KIND_NAME];
                Program::new("kind").args(delete).deadline(UP_DEADLINE).output().await.map(drop)
            }
            Place::Kubeconfig => Ok(()),
        }
    }

    /// Leaves it up when this run ends, so that the next one does not take it for litter.
    pub fn keep(&self) -> Result<()> {
        match self.place {
            Place::Local => {
                File::create(Path::new(RUNTIME).join("kept")).map(drop).context("marking the cluster as kept")
            }
            Place::Kind | Place::Kubeconfig => Ok(()),
        }
    }

    /// How a person uses it by hand: the words before `kubectl`.
    pub fn prefix(&self) -> String {
        match self.place {
            Place::Local => format!("{} ", shown(&folder().join("run"))),
            Place::Kind | Place::Kubeconfig => String::new(),
        }
    }

    /// How a person takes it down.
    pub fn down_words(&self) -> String {
        match self.place {
            Place::Local => down_command(),
            Place::Kind => format!("kind delete cluster --name {KIND_NAME}"),
            Place::Kubeconfig => {
                "helm uninstall -n mqtt-operator mqtt-operator; kubectl delete namespace mqtt-demo mqtt-operator".into()
            }
        }
    }

    /// The image of one of our programs, as the cluster's nodes know it: repository and tag.
    pub fn image(&self, name: &str) -> (String, &'static str) {
        match &self.registry {
            Some(registry) => (format!("{registry}/{name}"), env!("CARGO_PKG_VERSION")),
            None => (format!("localhost/{name}"), LOCAL_TAG),
        }
    }

    /// `kubectl` with these arguments.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        match self.place {
            Place::Kind => self.program("kubectl").args(["--context", "kind-mqtt-e2e"]).args(args),
            Place::Local | Place::Kubeconfig => self.program("kubectl").args(args),
        }
    }

    /// `helm` with these arguments.
    pub fn helm<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        match self.place {
            Place::Kind => self.program("helm").args(["--kube-context", "kind-mqtt-e2e"]).args(args),
            Place::Local | Place::Kubeconfig => self.program("helm").args(args),
        }
    }

    /// A program that runs where the cluster is reachable.
    pub fn program(&self, name: &str) -> Program {
        match self.place {
            Place::Local => self.script("run").args([name]),
            Place::Kind | Place::Kubeconfig => Program::new(name),
        }
    }

    /// Breaks or mends a node: the verbs of `kube/node`.
    pub async fn node(&self, verb: &str, args: &[&str]) -> Result<String> {
        if !self.is_local() {
            bail!("the nodes of {} are not ours to {verb}", self.describe());
        }
        self.script("node").args([verb]).args(args).deadline(UP_DEADLINE).output().await
    }

    /// Where a Service of our namespace answers on a port: its own address, or that of a node when we are not inside the network.
    pub async fn endpoint(&self, namespace: &str, service: &str) -> Result<Endpoint> {
        let path =
            if self.is_local() { "{.spec.clusterIP} {.spec.ports[0].port}" } else { "{.spec.ports[0].nodePort}" };
        let get = ["get", "service", service, "-n", namespace, "-o", &format!("jsonpath={path}")];
        let text = self.kubectl(get).output().await?;
        let address = if self.is_local() {
            text.replace(' ', ":")
        } else {
            let nodes = r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#;
            let node = self.kubectl(["get", "node", "-o", nodes]).output().await?;
            format!("{}:{text}", node.parse::<IpAddr>().with_context(|| format!("the address '{node}' of a node"))?)
        };
        let address: SocketAddr =
            address.parse().with_context(|| format!("the address '{address}' of Service {service}"))?;
        Ok(Endpoint { address, namespace: self.is_local().then(|| PathBuf::from(NAMESPACE)) })
    }

    /// The folder with what the local cluster remembers.
    pub async fn state(&self) -> Result<PathBuf> {
        if !self.is_local() {
            bail!("only the local cluster keeps its state on this machine");
        }
        Ok(self.program("printenv").args(["MQTT_E2E_STATE"]).output().await?.trim_end().into())
    }

    async fn image_archive(&self, name: &str) -> Result<String> {
        let words = format!(". '{}' && echo \"$IMAGES/{name}.tar\"", folder().join("lib/settings.sh").display());
        Ok(Program::new("bash").args(["-c", &words]).output().await?.trim_end().to_owned())
    }

    fn script(&self, name: &str) -> Program {
        let program = Program::new(folder().join(name));
        if self.lock.is_some() { program.env("MQTT_E2E_LOCK_HELD", "1") } else { program }
    }
}

fn down_command() -> String {
    format!("{} --wipe", shown(&folder().join("down")))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kube")
}

/// A path as a person in the checkout would type it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn lock_machine() -> Result<File> {
    std::fs::create_dir_all(RUNTIME)
        .with_context(|| format!("making {RUNTIME}: the local cluster needs root, try again with sudo"))?;
    let path = Path::new(RUNTIME).join("lock");
    let mut file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!("another run uses the local cluster: {holder}; wait until it ends, or end it");
        }
        Err(TryLockError::Error(error)) => {
            return Err(anyhow!(error).context(format!("locking {}", path.display())));
        }
    }
    if Path::new(RUNTIME).join("kept").exists() {
        bail!("a cluster that was kept is up; take it down first: {}", down_command());
    }
    file.set_len(0)?;
    let program = std::env::args().next().unwrap_or_default();
    write!(file, "process {}, {program}", std::process::id())?;
    Ok(file)
}

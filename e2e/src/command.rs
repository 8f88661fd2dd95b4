//! A child program with a deadline: what it printed, or why it failed, in words that name it.
//!
//! Deliberately absent: any shell. Arguments are passed as they are.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;

/// A program about to be run.
pub struct Program {
    command: tokio::process::Command,
    words: String,
    input: Option<String>,
    deadline: Duration,
}

impl Program {
    /// `program`, to be given thirty seconds.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        let words = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { command: tokio::process::Command::new(program), words, input: None, deadline: Duration::from_secs(30) }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.words.push(' ');
            self.words.push_str(&arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it this text to read.
    pub fn input(mut self, text: String) -> Self {
        self.input = Some(text);
        self
    }

    /// Kills it when it has run for so long.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end and returns what it printed; an ending other than success is an error that carries its words.
    pub async fn output(mut self) -> Result<String> {
        self.command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = self.command.spawn().with_context(|| format!("starting '{}'", self.words))?;
        let input = self.input.take();
        let mut stdin = child.stdin.take();
        let run = async {
            if let (Some(text), Some(mut pipe)) = (input, stdin.take()) {
                pipe.write_all(text.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let output = match tokio::time::timeout(self.deadline, run).await {
            Ok(output) => output.with_context(|| format!("running '{}'", self.words))?,
            Err(_) => bail!("'{}' did not end within {} s", self.words, self.deadline.as_secs()),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("'{}' ended with {}: {}", self.words, output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it to its end with the screen as its own: for programs that tell their progress.
    pub async fn shown(mut self) -> Result<()> {
        self.command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = self.command.spawn().with_context(|| format!("starting '{}'", self.words))?;
        let status = match tokio::time::timeout(self.deadline, child.wait()).await {
            Ok(status) => status.with_context(|| format!("running '{}'", self.words))?,
            Err(_) => bail!("'{}' did not end within {} s", self.words, self.deadline.as_secs()),
        };
        if !status.success() {
            bail!("'{}' ended with {status}", self.words);
        }
        Ok(())
    }

    /// Starts it, its output on pipes; it is killed when the handle is dropped.
    pub fn spawn(mut self) -> Result<tokio::process::Child> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        self.command.spawn().with_context(|| format!("starting '{}'", self.words))
    }
}

//! `mqtt-broker passwd`: writes one user of a password file and leaves the others' lines as they are.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};

use crate::auth::hash_password;
use crate::cli::PasswdArguments;

/// Does what was asked, with the password from standard input.
///
/// # Errors
/// If the file can't be read or written, or there is no such user to remove.
pub fn passwd(asked: &PasswdArguments) -> Result<()> {
    let name = asked.file.display();
    let before = match fs::read_to_string(&asked.file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !asked.delete => String::new(),
        Err(error) => return Err(error).with_context(|| name.to_string()),
    };
    let is_other = |line: &&str| line.split_once(':').is_none_or(|(user, _)| user != asked.user);
    let mut text: String = before.lines().filter(is_other).map(|line| format!("{line}\n")).collect();
    if asked.delete {
        ensure!(text.lines().count() < before.lines().count(), "{name}: there is no user {:?}", asked.user);
    } else {
        text.push_str(&hash_password(&asked.user, read_password()?.as_bytes(), asked.scram)?);
    }
    // Whole or not at all: a broker may read it at any moment.
    let mut unfinished = asked.file.clone().into_os_string();
    unfinished.push(".unfinished");
    let mode = fs::metadata(&asked.file).map_or(0o600, |data| data.mode() & 0o777);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, &asked.file).with_context(|| name.to_string())
}

fn read_password() -> Result<String> {
    if io::stdin().is_terminal() {
        eprint!("password (shown as it is typed; it may also come through a pipe): ");
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let password = line.trim_end_matches(['\n', '\r']).to_owned();
    ensure!(!password.is_empty(), "the password is empty: write it to standard input");
    Ok(password)
}

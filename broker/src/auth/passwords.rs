//! The password file: `USER:PROOF` a line. A proof is an argon2id PHC string, or one of Mosquitto's (`$6$`, `$7$`), or a
//! verifier of SCRAM-SHA-256; a user may have one of the former and one of the latter.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use aws_lc_rs::{constant_time, digest, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scram::ScramVerifier;

/// Bytes of a salt that is made here.
const SALT_BYTES: usize = 16;
/// With the parameters that [`hash_password`] uses; of no password that anybody knows.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9zdWNodXNlcm5vc3U$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// What is wrong with a password file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}; write it with `mqtt-broker passwd`")]
pub struct PasswordError {
    /// Counted from 1.
    pub line: usize,
    /// In words; never the line itself.
    pub what: &'static str,
}

/// The users of a file.
#[derive(Debug)]
pub struct Passwords {
    users: BTreeMap<Box<str>, Proofs>,
    /// Of nobody.
    decoy: Arc<Verifier>,
}

#[derive(Debug, Default)]
struct Proofs {
    password: Option<Arc<Verifier>>,
    scram: Option<Arc<ScramVerifier>>,
}

/// What a password is checked against. Slow by design: never on a worker.
#[derive(PartialEq, Eq)]
pub enum Verifier {
    /// An argon2id PHC string.
    Argon2(Box<str>),
    /// Mosquitto's `$6$`: SHA-512 of password and salt.
    Sha512 {
        /// The salt.
        salt: Vec<u8>,
        /// The hash.
        hash: Vec<u8>,
    },
    /// Mosquitto's `$7$`: PBKDF2-HMAC-SHA-512.
    Pbkdf2 {
        /// How often.
        iterations: NonZeroU32,
        /// The salt.
        salt: Vec<u8>,
        /// The hash.
        hash: Vec<u8>,
    },
    /// The password of a user who has a SCRAM verifier alone.
    Scram(ScramVerifier),
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Passwords {
    /// From a file's text.
    ///
    /// # Errors
    /// The first line that makes no sense.
    pub fn parse(text: &str) -> Result<Passwords, PasswordError> {
        let mut passwords = Passwords { users: BTreeMap::new(), decoy: Arc::new(Verifier::Argon2(DECOY.into())) };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refuse = |what| PasswordError { line: index + 1, what };
            let (user, proof) = line.split_once(':').ok_or_else(|| refuse("there is no colon after the user"))?;
            if user.is_empty() {
                return Err(refuse("the user has no name"));
            }
            let proofs = passwords.users.entry(user.into()).or_default();
            if let Some(scram) = ScramVerifier::parse(proof) {
                proofs.scram = Some(Arc::new(scram));
            } else {
                let verifier =
                    Verifier::parse(proof).ok_or_else(|| refuse("what proves the password is of no known kind"))?;
                proofs.password = Some(Arc::new(verifier));
            }
        }
        for proofs in passwords.users.values_mut() {
            if let (None, Some(scram)) = (&proofs.password, &proofs.scram) {
                proofs.password = Some(Arc::new(Verifier::Scram(ScramVerifier::clone(scram))));
            }
        }
        Ok(passwords)
    }

    /// What the user's password is checked against.
    pub fn password_of(&self, user: &str) -> Option<&Arc<Verifier>> {
        self.users.get(user)?.password.as_ref()
    }

    /// What the password of somebody who is no user is checked against, so that it takes as long.
    pub fn decoy(&self) -> &Arc<Verifier> {
        &self.decoy
    }

    /// What the user's SCRAM exchange is checked against.
    pub fn scram_of(&self, user: &str) -> Option<&Arc<ScramVerifier>> {
        self.users.get(user)?.scram.as_ref()
    }

    /// Whether there is such a user.
    pub fn contains(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }
}

impl Verifier {
    fn parse(proof: &str) -> Option<Verifier> {
        if proof.starts_with("$argon2id$") {
            let hash = PasswordHash::new(proof).ok()?;
            argon2::Params::try_from(&hash).ok()?;
            return hash.hash.is_some().then(|| Verifier::Argon2(proof.into()));
        }
        let mut parts = proof.strip_prefix('$')?.split('$');
        let kind = parts.next()?;
        let iterations = match kind {
            "6" => None,
            "7" => Some(parts.next()?.parse().ok()?),
            _ => return None,
        };
        let (salt, hash) = (STANDARD.decode(parts.next()?).ok()?, STANDARD.decode(parts.next()?).ok()?);
        if parts.next().is_some() || hash.len() != digest::SHA512_OUTPUT_LEN {
            return None;
        }
        Some(match iterations {
            None => Verifier::Sha512 { salt, hash },
            Some(iterations) => Verifier::Pbkdf2 { iterations, salt, hash },
        })
    }

    /// What tells it from another.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        match self {
            Verifier::Argon2(phc) => phc.as_bytes().to_vec(),
            Verifier::Sha512 { salt, hash } => [&salt[..], hash].concat(),
            Verifier::Pbkdf2 { iterations, salt, hash } => [&iterations.get().to_be_bytes()[..], salt, hash].concat(),
            Verifier::Scram(scram) => scram.to_string().into_bytes(),
        }
    }

    /// Whether the password is right. Takes milliseconds.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Verifier::Argon2(phc) => {
                let hash = PasswordHash::new(phc);
                hash.is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
            }
            Verifier::Sha512 { salt, hash } => {
                let salted = [password, salt].concat();
                constant_time::verify_slices_are_equal(digest::digest(&digest::SHA512, &salted).as_ref(), hash).is_ok()
            }
            Verifier::Pbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash).is_ok()
            }
            Verifier::Scram(scram) => scram.is_of(password),
        }
    }
}

/// The lines of a user for a password file: argon2id, and a SCRAM verifier if asked for.
///
/// # Errors
/// If the user has a name that a line can't hold, or the system has no randomness.
pub fn hash_password(user: &str, password: &[u8], scram: bool) -> anyhow::Result<String> {
    anyhow::ensure!(
        !user.is_empty() && !user.contains([':', '\n', '\r']) && !user.starts_with('#') && user.trim() == user,
        "user {user:?}: choose a name without colon, line break, outer spaces or # in front"
    );
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let salt_string = SaltString::encode_b64(&salt).map_err(|error| anyhow::anyhow!("{error}"))?;
    let hash = Argon2::default().hash_password(password, &salt_string).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut lines = format!("{user}:{hash}\n");
    if scram {
        rand::fill(&mut salt).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
        lines.push_str(&format!("{user}:{}\n", ScramVerifier::of(password, &salt)));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let lines = hash_password("ann", b"secret", true).unwrap();
        let passwords = Passwords::parse(&lines).unwrap();
        assert!(passwords.password_of("ann").unwrap().verify(b"secret"));
        assert!(!passwords.password_of("ann").unwrap().verify(b"Secret"));
        assert!(passwords.scram_of("ann").unwrap().is_of(b"secret"));
        assert!(passwords.password_of("bob").is_none());
        let scram_alone = Passwords::parse(lines.lines().nth(1).unwrap()).unwrap();
        assert!(scram_alone.password_of("ann").unwrap().verify(b"secret"));
        for name in ["", "a:b", "a\nb", "#a", " a"] {
            assert!(hash_password(name, b"x", false).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_lines_of_mosquitto_are_read() {
        // As SHA-512 and PBKDF2 give them for the password `secret`, salt `saltsalt1234`.
        let salt = STANDARD.encode(b"saltsalt1234");
        let plain = STANDARD.encode(digest::digest(&digest::SHA512, b"secretsaltsalt1234"));
        let mut derived = [0; 64];
        let iterations = NonZeroU32::new(101).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, b"saltsalt1234", b"secret", &mut derived);
        let derived = STANDARD.encode(derived);
        let passwords =
            Passwords::parse(&format!("# users\nold:$6${salt}${plain}\nnew:$7$101${salt}${derived}\n")).unwrap();
        for user in ["old", "new"] {
            assert!(passwords.password_of(user).unwrap().verify(b"secret"), "{user}");
            assert!(!passwords.password_of(user).unwrap().verify(b"wrong"), "{user}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line_and_never_shown() {
        for text in [
            "ann:$7$101$c2FsdA==$eA==\n",
            "ann:plain",
            "ann",
            ":$6$a$b",
            "ann:$argon2id$v=19$m=1,t=1$x",
            "ann:$7$0$c2FsdA==$c2FsdA==",
        ] {
            let error = Passwords::parse(&format!("\n{text}")).unwrap_err();
            assert_eq!(error.line, 2, "{text}");
            assert!(!error.to_string().contains("plain"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([a-c]{0,2}:?(\\$[0-9a-zA-Z=+/,.:-]{0,12}){0,6}\n?){0,6}", kind in "(\\$6|\\$7\\$[0-9]{1,5}|\\$argon2id\\$v=19\\$m=[0-9]{1,3},t=[0-9],p=[0-9]|SCRAM-SHA-256\\$[0-9]{1,5}:)", rest in "[A-Za-z0-9+/=$:]{0,60}") {
            let _ = Passwords::parse(&text);
            let _ = Passwords::parse(&format!("a:{kind}${rest}"));
        }
    }
}

//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: the password never crosses the line, and the server proves that
//! it knows the user too. Deliberately absent: channel binding, and names to act as.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The Authentication Method of AUTH and CONNECT.
pub const METHOD: &str = "SCRAM-SHA-256";
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
/// What RFC 7677 asks for at least.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// Bytes of the server's part of the nonce.
const NONCE_BYTES: usize = 18;
/// Of a message of the client's.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What a user's exchange is checked against. As PostgreSQL writes it:
/// `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
}

/// Why an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message is no SCRAM.
    #[error("a message is not of SCRAM-SHA-256")]
    Malformed,
    /// User or proof is wrong.
    #[error("the user or the proof is wrong")]
    Refused,
}

/// An exchange whose first half is done.
#[derive(Debug)]
pub struct Exchange {
    /// Who says to be.
    pub user: Box<str>,
    verifier: ScramVerifier,
    /// There is such a user.
    known: bool,
    nonce: String,
    client_header: Box<str>,
    /// The server's first message.
    challenge: String,
    /// What both sign, as far as it was said.
    said: String,
}

impl ScramVerifier {
    /// Of a password.
    pub fn of(password: &[u8], salt: &[u8]) -> ScramVerifier {
        ScramVerifier::with(password, salt, ITERATIONS)
    }

    fn with(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> ScramVerifier {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client_key = sign(&salted, b"Client Key");
        ScramVerifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// From a line of a password file.
    pub(super) fn parse(text: &str) -> Option<ScramVerifier> {
        let (settings, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = settings.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text| STANDARD.decode(text).ok()?.try_into().ok();
        Some(ScramVerifier {
            iterations: iterations.parse().ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Whether it is of this password. Takes milliseconds.
    pub fn is_of(&self, password: &[u8]) -> bool {
        let other = ScramVerifier::with(password, &self.salt, self.iterations);
        constant_time::verify_slices_are_equal(&other.stored_key, &self.stored_key).is_ok()
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier")
    }
}

impl Exchange {
    /// Takes the client's first message; [`Exchange::challenge`] is the answer. A user that `find` doesn't know is told nothing of it until
    /// the end.
    ///
    /// # Errors
    /// If it is no such message.
    pub fn begin(first: &[u8], find: impl FnOnce(&str) -> Option<ScramVerifier>) -> Result<Exchange, ScramError> {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| ScramError::Refused)?;
        Exchange::begin_with(first, find, &STANDARD.encode(nonce))
    }

    fn begin_with(
        first: &[u8],
        find: impl FnOnce(&str) -> Option<ScramVerifier>,
        own_nonce: &str,
    ) -> Result<Exchange, ScramError> {
        let text = std::str::from_utf8(first).ok().filter(|text| text.len() <= MESSAGE_BYTES_MAX);
        let text = text.ok_or(ScramError::Malformed)?;
        // `y`: the client could bind to a channel, and believes that we can't; it is right.
        let bare = text.strip_prefix("n,,").or(text.strip_prefix("y,,")).ok_or(ScramError::Malformed)?;
        let mut parts = bare.split(',');
        let user = parts.next().and_then(|part| part.strip_prefix("n=")).and_then(unescape);
        let client_nonce = parts.next().and_then(|part| part.strip_prefix("r=")).filter(|nonce| !nonce.is_empty());
        let (Some(user), Some(client_nonce)) = (user, client_nonce) else { return Err(ScramError::Malformed) };
        let found = find(&user);
        let known = found.is_some();
        let verifier = found.unwrap_or_else(|| decoy(&user));
        let nonce = format!("{client_nonce}{own_nonce}");
        let challenge = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let said = format!("{bare},{challenge}");
        let client_header = text[..3].into();
        Ok(Exchange { user: user.into(), verifier, known, nonce, client_header, challenge, said })
    }

    /// The server's first message.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Takes the client's final message; gives the server's, which proves the server.
    ///
    /// # Errors
    /// If it is no such message, or proves nothing.
    pub fn finish(&self, last: &[u8]) -> Result<String, ScramError> {
        let text = std::str::from_utf8(last).ok().filter(|text| text.len() <= MESSAGE_BYTES_MAX);
        let (unproven, proof) = text.and_then(|text| text.rsplit_once(",p=")).ok_or(ScramError::Malformed)?;
        let proof: [u8; KEY_BYTES] =
            STANDARD.decode(proof).ok().and_then(|proof| proof.try_into().ok()).ok_or(ScramError::Malformed)?;
        let mut parts = unproven.split(',');
        let header = parts.next().and_then(|part| part.strip_prefix("c="));
        let nonce = parts.next().and_then(|part| part.strip_prefix("r="));
        if header != Some(&STANDARD.encode(&*self.client_header)) || nonce != Some(&self.nonce) {
            return Err(ScramError::Malformed);
        }
        let said = format!("{},{unproven}", self.said);
        let signature = sign(&self.verifier.stored_key, said.as_bytes());
        let mut client_key = proof;
        for (byte, signed) in client_key.iter_mut().zip(signature) {
            *byte ^= signed;
        }
        let right = constant_time::verify_slices_are_equal(&sha256(&client_key), &self.verifier.stored_key).is_ok();
        if !right || !self.known {
            return Err(ScramError::Refused);
        }
        Ok(format!("v={}", STANDARD.encode(sign(&self.verifier.server_key, said.as_bytes()))))
    }
}

/// A salt that is the same each time somebody asks for this user, as a real one's would be.
fn decoy(user: &str) -> ScramVerifier {
    let salt = sha256(&[b"no such user: ", user.as_bytes()].concat())[..16].to_vec();
    ScramVerifier { iterations: ITERATIONS, salt, stored_key: [0; KEY_BYTES], server_key: [0; KEY_BYTES] }
}

fn unescape(name: &str) -> Option<String> {
    let mut pieces = name.split('=');
    let mut out = pieces.next()?.to_owned();
    for piece in pieces {
        let (escaped, rest) = piece.split_at_checked(2)?;
        out.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        out.push_str(rest);
    }
    (!out.is_empty()).then_some(out)
}

fn sign(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref())
}

fn sha256(data: &[u8]) -> [u8; KEY_BYTES] {
    array(digest::digest(&digest::SHA256, data).as_ref())
}

fn array(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut array = [0; KEY_BYTES];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verifier() -> ScramVerifier {
        ScramVerifier::of(b"pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap())
    }

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OWN_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &[u8] =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_exchange_of_the_standard_goes_as_there() {
        // RFC 7677, section 3.
        let exchange = Exchange::begin_with(FIRST, |_| Some(verifier()), OWN_NONCE).unwrap();
        assert_eq!(&*exchange.user, "user");
        assert_eq!(
            exchange.challenge(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        assert_eq!(exchange.finish(LAST), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned()));
    }

    #[test]
    fn a_wrong_proof_and_an_unknown_user_are_told_alike() {
        let exchange = Exchange::begin_with(FIRST, |_| Some(ScramVerifier::of(b"pen", b"salt")), OWN_NONCE).unwrap();
        assert_eq!(exchange.finish(LAST), Err(ScramError::Refused));
        let exchange = Exchange::begin_with(FIRST, |_| None, OWN_NONCE).unwrap();
        assert_eq!(exchange.finish(LAST), Err(ScramError::Refused));
        let exchange = Exchange::begin_with(FIRST, |_| Some(verifier()), "another").unwrap();
        assert_eq!(exchange.finish(LAST), Err(ScramError::Malformed), "a nonce of another exchange");
    }

    #[test]
    fn names_are_unescaped() {
        assert_eq!(unescape("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        assert_eq!(unescape("a=2"), None);
        assert_eq!(unescape(""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(first in prop::collection::vec(any::<u8>(), 0..60), text in "(n,,)?n=[a-z=2C3D]{0,6},r=[a-z]{0,4}", last in "(c=biws)?,?r=[a-z%]{0,6}(,p=[A-Za-z0-9+/=]{0,48})?") {
            let _ = Exchange::begin(&first, |_| None);
            if let Ok(exchange) = Exchange::begin(text.as_bytes(), |_| Some(verifier_cheap())) {
                let _ = exchange.finish(last.as_bytes());
                let _ = exchange.finish(&first);
            }
        }
    }

    fn verifier_cheap() -> ScramVerifier {
        ScramVerifier::with(b"x", b"salt", NonZeroU32::MIN)
    }
}

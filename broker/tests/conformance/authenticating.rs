//! Chapter 4: enhanced authentication, with SCRAM-SHA-256.

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::{Client, Received};
use crate::scene::{PASSWORD, Scene, USER_NAME};
use crate::wire::*;

const METHOD: &str = "SCRAM-SHA-256";
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;

/// The client's side of RFC 5802.
struct Scram {
    first_bare: String,
    password: &'static str,
}

impl Scram {
    fn new(user: &str, password: &'static str) -> Scram {
        Scram { first_bare: format!("n={user},r=a-nonce-of-the-client"), password }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Answers the challenge; gives what the server must prove itself with.
    fn answer(&self, challenge: &str) -> (String, String) {
        let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).unwrap().to_owned();
        let (nonce, salt, rounds) = (field("r="), STANDARD.decode(field("s=")).unwrap(), field("i="));
        let mut salted = [0; 32];
        let rounds = rounds.parse::<std::num::NonZeroU32>().unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, self.password.as_bytes(), &mut salted);
        let sign =
            |key: &[u8], what: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), what).as_ref().to_vec();
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{challenge},{without_proof}", self.first_bare);
        let signature = sign(stored_key.as_ref(), said.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        let server = sign(&sign(&salted, b"Server Key"), said.as_bytes());
        (format!("{without_proof},p={}", STANDARD.encode(proof)), format!("v={}", STANDARD.encode(server)))
    }
}

fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    let raw = [string(AUTH_METHOD, method), string(AUTH_DATA, data)].concat();
    packet(0xf0, &[&[reason], &properties(V5, &raw)[..]].concat())
}

fn connect(scene: &Scene, method: &str, data: &str) -> Connect {
    scene.clean("c").with(&string(AUTH_METHOD, method)).with(&string(AUTH_DATA, data))
}

/// The Authentication Data of a packet whose properties stand at `at`, and which names the method.
fn data(got: &Received, at: usize) -> String {
    assert_eq!(got.property(at, AUTH_METHOD), Some(text(METHOD)), "{got:?}");
    String::from_utf8(got.property(at, AUTH_DATA).unwrap()[2..].to_vec()).unwrap()
}

/// AUTH that asks for more: its data.
fn challenge(client: &mut Client) -> String {
    let got = client.next();
    assert_eq!((got.first, got.body[0]), (0xf0, CONTINUE), "{got:?}");
    data(&got, 1)
}

fn authenticated(scene: &Scene) -> Client {
    let scram = Scram::new(USER_NAME, PASSWORD);
    let mut client = scene.dial_users();
    client.send(&connect(scene, METHOD, &scram.first()).bytes());
    let (proof, server) = scram.answer(&challenge(&mut client));
    client.send(&auth(CONTINUE, METHOD, &proof));
    let connack = client.next();
    assert_eq!((connack.first, &connack.body[..2]), (0x20, &[0, 0][..]), "{connack:?}");
    assert_eq!(data(&connack, 2), server, "the broker knows the password too");
    client
}

/// 5.0: MQTT-4.12.0-2, MQTT-4.12.0-5, MQTT-3.15.2-1.
#[test]
fn scram_proves_both_sides() {
    let scene = Scene::new(V5);
    authenticated(&scene).nothing();
}

/// 5.0: MQTT-4.12.0-4, MQTT-3.1.4-6.
#[test]
fn a_wrong_proof_is_refused() {
    let scene = Scene::new(V5);
    for (user, password) in [(USER_NAME, "wrong"), ("nobody", PASSWORD)] {
        let scram = Scram::new(user, password);
        let mut client = scene.dial_users();
        client.send(&connect(&scene, METHOD, &scram.first()).bytes());
        let (proof, _) = scram.answer(&challenge(&mut client));
        client.send(&[auth(CONTINUE, METHOD, &proof), PINGREQ.to_vec()].concat());
        client.refused(0x87, 0);
    }
}

/// 5.0: MQTT-4.12.0-1.
#[test]
fn a_method_that_is_not_known_is_refused() {
    let scene = Scene::new(V5);
    let mut client = scene.dial_users();
    client.send(&connect(&scene, "SCRAM-MD5", "x").bytes());
    client.refused(0x8c, 0);
}

/// 5.0: MQTT-4.12.0-3, MQTT-4.12.0-5, MQTT-3.1.2-30.
#[test]
fn an_exchange_that_goes_wrong_is_refused() {
    let scene = Scene::new(V5);
    let scram = Scram::new(USER_NAME, PASSWORD);
    let wrong: [fn(&str) -> Vec<u8>; 4] = [
        |proof| auth(AGAIN, METHOD, proof),
        |proof| auth(0, METHOD, proof),
        |proof| auth(CONTINUE, "SCRAM-SHA-1", proof),
        |_| PINGREQ.to_vec(),
    ];
    for wrong in wrong {
        let mut client = scene.dial_users();
        client.send(&connect(&scene, METHOD, &scram.first()).bytes());
        let (proof, _) = scram.answer(&challenge(&mut client));
        client.send(&wrong(&proof));
        let got = client.receive();
        assert!(got.as_ref().is_none_or(|got| got.first == 0x20 && got.body[1] >= 0x80), "{got:?}");
        if got.is_some() {
            client.end();
        }
    }
    // Data without a method.
    let mut client = scene.dial_users();
    client.send(&scene.clean("c").with(&string(AUTH_DATA, "x")).bytes());
    client.refused(0x82, 0);
}

/// 5.0: MQTT-4.12.0-6, MQTT-4.12.0-7.
#[test]
fn auth_is_only_for_who_began_with_it() {
    let scene = Scene::new(V5);
    let mut client = scene.dial();
    client.send(&scene.clean("c").bytes());
    assert_eq!(client.next().property(2, AUTH_METHOD), None);
    client.send(&auth(AGAIN, METHOD, &Scram::new(USER_NAME, PASSWORD).first()));
    client.ended(0x82);
}

/// 5.0: MQTT-4.12.1-1, MQTT-4.12.0-5.
#[test]
fn a_client_may_prove_itself_again_and_goes_on_meanwhile() {
    let scene = Scene::new(V5);
    let mut client = authenticated(&scene);
    for _ in 0..2 {
        let scram = Scram::new(USER_NAME, PASSWORD);
        client.send(&auth(AGAIN, METHOD, &scram.first()));
        let (proof, server) = scram.answer(&challenge(&mut client));
        client.publishes(2, &scene.name("a"), &[], "meanwhile");
        client.send(&auth(CONTINUE, METHOD, &proof));
        let done = client.next();
        assert_eq!((done.first, done.body[0]), (0xf0, 0), "{done:?}");
        assert_eq!(data(&done, 1), server);
        client.publishes(2, &scene.name("a"), &[], "afterwards");
    }
    client.send(&auth(AGAIN, "SCRAM-SHA-1", &Scram::new(USER_NAME, PASSWORD).first()));
    client.ended(0x82);
}

/// 5.0: MQTT-4.12.1-2.
#[test]
fn a_client_that_cannot_prove_itself_again_is_disconnected() {
    let scene = Scene::new(V5);
    let mut client = authenticated(&scene);
    let scram = Scram::new(USER_NAME, "wrong");
    client.send(&auth(AGAIN, METHOD, &scram.first()));
    let (proof, _) = scram.answer(&challenge(&mut client));
    client.send(&auth(CONTINUE, METHOD, &proof));
    client.ended(0x87);
}

/// 5.0: MQTT-3.15.2-2, MQTT-3.15.2-3.
#[test]
fn auth_has_nothing_in_it_that_makes_it_larger_than_it_must_be() {
    let scene = Scene::new(V5);
    let scram = Scram::new(USER_NAME, PASSWORD);
    let mut client = scene.dial_users();
    client.send(&connect(&scene, METHOD, &scram.first()).with(&four(PACKET_MAXIMUM, 200)).bytes());
    let got = client.next();
    assert!(
        got.bytes().len() <= 200 && got.properties(1).iter().all(|(id, _)| !matches!(*id, REASON | USER)),
        "{got:?}"
    );
}

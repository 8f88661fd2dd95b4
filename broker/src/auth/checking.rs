//! Passwords are hashed by a few threads of their own, from a bounded queue: a worker never waits, and what a flood of
//! wrong passwords can cost is bounded. A password that was right a moment ago is known again at the price of one HMAC.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::{hmac, rand};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::passwords::Verifier;
use crate::limits::{
    CHECK_ADDRESSES_MAX, CHECK_FAILURES_MAX, CHECK_FAILURES_WITHIN, CHECK_PENDING_PER_ADDRESS_MAX, CHECK_QUEUE_MAX,
    CHECKED_REMEMBERED, CHECKED_REMEMBERED_MAX,
};

/// What comes of asking for a check.
#[derive(Debug)]
pub enum Checked {
    /// It was right a moment ago.
    Right,
    /// A thread checks it. An error from the receiver means no.
    Wait(oneshot::Receiver<bool>),
    /// There is too much to check, or this address was wrong too often.
    Busy,
}

/// The threads that check, what they know, and who was wrong too often.
pub struct Checker {
    shared: Arc<Shared>,
    queue: Option<SyncSender<Job>>,
}

struct Shared {
    remembered: Mutex<Remembered>,
    addresses: Mutex<BTreeMap<IpAddr, Address>>,
}

struct Job {
    verifier: Arc<Verifier>,
    password: Vec<u8>,
    tag: Tag,
    address: Option<IpAddr>,
    answer: oneshot::Sender<bool>,
}

type Tag = [u8; 32];

struct Remembered {
    /// `None`: the system gave no key, so nothing is remembered.
    key: Option<hmac::Key>,
    until: BTreeMap<Tag, Instant>,
    order: VecDeque<Tag>,
}

/// What is known of an address.
struct Address {
    failures: u32,
    /// When the first of them was.
    since: Instant,
    pending: u32,
}

impl Checker {
    /// With so many threads.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(threads: usize) -> std::io::Result<Checker> {
        let mut checker = Checker::idle();
        let (queue, jobs) = sync_channel(CHECK_QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let (jobs, shared) = (jobs.clone(), checker.shared.clone());
            std::thread::Builder::new().name(format!("password-{number}")).spawn(move || work(&jobs, &shared))?;
        }
        checker.queue = Some(queue);
        Ok(checker)
    }

    /// Without threads: it checks nothing.
    pub fn idle() -> Checker {
        let mut secret = [0; 32];
        let key = rand::fill(&mut secret).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &secret));
        let remembered = Remembered { key, until: BTreeMap::new(), order: VecDeque::new() };
        let shared = Shared { remembered: Mutex::new(remembered), addresses: Mutex::default() };
        Checker { shared: Arc::new(shared), queue: None }
    }

    /// Asks whether a password is right.
    pub fn check(
        &self,
        peer: Option<IpAddr>,
        user: &str,
        verifier: &Arc<Verifier>,
        password: &[u8],
        now: Instant,
    ) -> Checked {
        let tag = lock(&self.shared.remembered).tag(user, verifier, password);
        if lock(&self.shared.remembered).knows(&tag, now) {
            return Checked::Right;
        }
        let address = peer.map(household);
        let Some(queue) = &self.queue else { return Checked::Busy };
        if address.is_some_and(|address| !self.shared.admit(address, now)) {
            return Checked::Busy;
        }
        let (answer, wait) = oneshot::channel();
        let job = Job { verifier: verifier.clone(), password: password.to_vec(), tag, address, answer };
        match queue.try_send(job) {
            Ok(()) => Checked::Wait(wait),
            Err(_) => {
                self.shared.settle(address, None, now);
                Checked::Busy
            }
        }
    }

    /// Whether an address was not wrong too often to try again.
    pub fn may_try(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let Some(address) = peer.map(household) else { return true };
        let addresses = lock(&self.shared.addresses);
        addresses
            .get(&address)
            .is_none_or(|known| known.failures < CHECK_FAILURES_MAX || now >= known.since + CHECK_FAILURES_WITHIN)
    }

    /// An address was wrong in a way that needed no check here.
    pub fn note_failure(&self, peer: Option<IpAddr>, now: Instant) {
        if let Some(address) = peer.map(household)
            && self.shared.admit(address, now)
        {
            self.shared.settle(Some(address), Some(false), now);
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, shared: &Shared) {
    loop {
        let job = lock(jobs).recv();
        let Ok(Job { verifier, password, tag, address, answer }) = job else { return };
        // Whoever has gone costs nothing, and is not told to have been wrong.
        let right = (!answer.is_closed()).then(|| verifier.verify(&password));
        // A thread of this room belongs to no runtime, and no simulation has one.
        let now = Instant::now();
        if right == Some(true) {
            lock(&shared.remembered).add(tag, now);
        }
        shared.settle(address, right, now);
        let _ = answer.send(right == Some(true));
    }
}

impl Shared {
    /// Whether an address may have one more password checked.
    fn admit(&self, address: IpAddr, now: Instant) -> bool {
        let mut addresses = lock(&self.addresses);
        if addresses.len() >= CHECK_ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, known| known.pending > 0 || now < known.since + CHECK_FAILURES_WITHIN);
            if addresses.len() >= CHECK_ADDRESSES_MAX {
                return false;
            }
        }
        let known = addresses.entry(address).or_insert(Address { failures: 0, since: now, pending: 0 });
        if now >= known.since + CHECK_FAILURES_WITHIN {
            (known.failures, known.since) = (0, now);
        }
        let admitted = known.failures < CHECK_FAILURES_MAX && known.pending < CHECK_PENDING_PER_ADDRESS_MAX;
        known.pending += u32::from(admitted);
        admitted
    }

    fn settle(&self, address: Option<IpAddr>, right: Option<bool>, now: Instant) {
        let mut addresses = lock(&self.addresses);
        if let Some(address) = address
            && let Some(known) = addresses.get_mut(&address)
        {
            known.pending = known.pending.saturating_sub(1);
            if right == Some(false) {
                if known.failures == 0 {
                    known.since = now;
                }
                known.failures += 1;
            }
            if known.pending == 0 && known.failures == 0 {
                addresses.remove(&address);
            }
        }
    }
}

impl Remembered {
    /// Names user, password and what it was checked against, so that a changed file is seen.
    fn tag(&self, user: &str, verifier: &Arc<Verifier>, password: &[u8]) -> Tag {
        let Some(key) = &self.key else { return Tag::default() };
        let mut context = hmac::Context::with_key(key);
        let proof = verifier.fingerprint();
        for part in [user.as_bytes(), &proof, password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = Tag::default();
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    fn knows(&self, tag: &Tag, now: Instant) -> bool {
        self.key.is_some() && self.until.get(tag).is_some_and(|until| now < *until)
    }

    fn add(&mut self, tag: Tag, now: Instant) {
        if self.key.is_none() {
            return;
        }
        if self.until.insert(tag, now + CHECKED_REMEMBERED).is_none() {
            self.order.push_back(tag);
        }
        if self.order.len() > CHECKED_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
    }
}

/// Who can be told apart: an IPv6 network is one customer's.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        v4 => v4,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::passwords::Passwords;
    use super::*;

    fn verifier() -> Arc<Verifier> {
        // PBKDF2 with few rounds: quick, and still by the threads.
        let text = "ann:SCRAM-SHA-256$1:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        Passwords::parse(text).unwrap().password_of("ann").unwrap().clone()
    }

    #[tokio::test]
    async fn a_right_password_is_known_again_until_its_proof_changes() {
        let checker = Checker::start(1).unwrap();
        let lines = super::super::hash_password("ann", b"secret", false).unwrap();
        let passwords = Passwords::parse(&lines).unwrap();
        let verifier = passwords.password_of("ann").unwrap();
        let now = Instant::now();
        let Checked::Wait(answer) = checker.check(None, "ann", verifier, b"secret", now) else { panic!() };
        assert!(answer.await.unwrap());
        assert!(matches!(checker.check(None, "ann", verifier, b"secret", now), Checked::Right));
        assert!(matches!(checker.check(None, "bob", verifier, b"secret", now), Checked::Wait(_)));
        let later = now + CHECKED_REMEMBERED + Duration::from_secs(60);
        assert!(matches!(checker.check(None, "ann", verifier, b"secret", later), Checked::Wait(_)));
        let changed = Passwords::parse(&super::super::hash_password("ann", b"other", false).unwrap()).unwrap();
        let changed = changed.password_of("ann").unwrap();
        assert!(matches!(checker.check(None, "ann", changed, b"secret", now), Checked::Wait(_)));
    }

    #[tokio::test]
    async fn an_address_that_is_wrong_too_often_waits_and_others_do_not() {
        let checker = Checker::start(1).unwrap();
        let (verifier, now) = (verifier(), Instant::now());
        let from = |address: &str| Some(address.parse().unwrap());
        for attempt in 0..CHECK_FAILURES_MAX {
            let password = attempt.to_be_bytes();
            let Checked::Wait(answer) = checker.check(from("192.0.2.1"), "ann", &verifier, &password, now) else {
                panic!("attempt {attempt}")
            };
            assert!(!answer.await.unwrap());
        }
        assert!(matches!(checker.check(from("192.0.2.1"), "ann", &verifier, b"x", now), Checked::Busy));
        assert!(matches!(checker.check(from("192.0.2.2"), "ann", &verifier, b"x", now), Checked::Wait(_)));
        let later = Instant::now() + CHECK_FAILURES_WITHIN;
        assert!(matches!(checker.check(from("192.0.2.1"), "ann", &verifier, b"x", later), Checked::Wait(_)));
    }

    #[test]
    fn a_network_of_one_customer_is_one() {
        let of = |address: &str| household(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}

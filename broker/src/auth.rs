//! Who a client is, and what it may: decisions alone. Files are read by those who start and reload a node; here is what
//! their lines mean.
//!
//! Deliberately absent: packets, sockets, and any wait but that of [`Checker`], whose threads are the one place where a
//! password is hashed.

mod acl;
mod checking;
mod passwords;
mod scram;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

pub use acl::{Acl, AclError, Client};
pub use checking::{Checked, Checker};
pub use passwords::{PasswordError, Passwords, Verifier, hash_password};
pub use scram::{Exchange, METHOD as SCRAM_METHOD, ScramError, ScramVerifier};

use crate::limits::ClientLimits;
use crate::share::Strategy;

/// What is asked of clients now. Replaced as a whole when files change.
#[derive(Debug, Default)]
pub struct Policy {
    /// `None`: nobody has a password.
    pub passwords: Option<Arc<Passwords>>,
    /// `None`: everybody may everything.
    pub acl: Option<Arc<Acl>>,
    /// Bounds on clients.
    pub limits: ClientLimits,
    /// Which member of a shared subscription a message goes to.
    pub strategy: Strategy,
}

/// A worker's view of the policy.
#[derive(Clone)]
pub struct Guard {
    policy: watch::Receiver<Arc<Policy>>,
    checker: Arc<Checker>,
}

impl Guard {
    /// Follows `policy`.
    pub fn new(policy: watch::Receiver<Arc<Policy>>, checker: Arc<Checker>) -> Guard {
        Guard { policy, checker }
    }

    /// Everybody may everything, for ever.
    pub fn open(limits: ClientLimits) -> Guard {
        let (_, policy) = watch::channel(Arc::new(Policy { limits, ..Policy::default() }));
        Guard { policy, checker: Arc::new(Checker::idle()) }
    }

    /// The policy in force.
    pub fn policy(&mut self) -> Arc<Policy> {
        self.policy.borrow_and_update().clone()
    }

    /// Whether there is a newer policy than [`Guard::policy`] last gave.
    pub fn has_changed(&self) -> bool {
        self.policy.has_changed().unwrap_or(false)
    }

    /// Who checks passwords.
    pub fn checker(&self) -> &Checker {
        &self.checker
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

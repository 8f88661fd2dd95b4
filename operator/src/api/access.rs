//! Who may connect and do what, and the certificate that clients see. What is secret stays in Secrets that a person, or
//! another program, makes; the resource names them.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Who may connect, and what they may do.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.allowAnonymous) || self.allowAnonymous || has(self.passwords)")
        .message("auth: nobody could connect, set auth.passwords or allow anonymous clients")
)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Whether clients may connect that don't prove who they are. Unset: only while no passwords are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_anonymous: Option<bool>,

    /// Users and the hashes of their passwords, as the broker's password file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwords: Option<PasswordsSecret>,

    /// Who may publish and subscribe to what, as the broker's ACL file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acls: Option<AclsSecret>,
}

/// A Secret with a password file.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PasswordsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key of the file in it.
    #[serde(default = "default_passwords_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret with an ACL file.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AclsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key of the file in it.
    #[serde(default = "default_acls_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The certificate that clients see.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret of type `kubernetes.io/tls`, as cert-manager makes it: `tls.crt` and `tls.key`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

impl Auth {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether clients may connect that don't prove who they are.
    pub fn anonymous(&self) -> bool {
        self.allow_anonymous.unwrap_or(self.passwords.is_none())
    }
}

fn default_passwords_key() -> String {
    "passwords".to_owned()
}

fn default_acls_key() -> String {
    "acls".to_owned()
}

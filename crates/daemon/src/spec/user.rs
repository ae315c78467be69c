//! Who a container runs as: names resolved by the image's own accounts.

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::{Accounts, SpecError};
use crate::{container::config::ContainerSecurity, pod::config::SupplementalGroupsPolicy};

/// A resolved user, as a process gets it and CRI's `ContainerUser` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Every group of the process, its own one included: each once, in ascending order.
    pub(crate) groups: Vec<u32>,
    /// Of the image's accounts; `/` where the user has none.
    pub(crate) home: String,
}

const RUN_AS_USERNAME: &str = "config.linux.security_context.run_as_username";
const IMAGE_USER: &str = "the image's USER";

/// The last id is "no change" to setuid(2).
const LAST_ID: u32 = u32::MAX - 1;

/// CRI's `run_as_user` or `run_as_username`, else the image's `USER`, else root; the group of that account, unless one is asked
/// for; and the supplementary groups that the policy says.
pub(super) fn resolve(
    security: &ContainerSecurity,
    image: &ImageConfiguration,
    accounts: &Accounts,
) -> Result<User, SpecError> {
    let image_user = image
        .config()
        .as_ref()
        .and_then(|config| config.user().as_deref());
    let base = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => Base::of_uid(uid, accounts),
        (None, "") => match image_user.map(str::trim) {
            None | Some("") => Base::of_uid(0, accounts),
            Some(user) => Base::parse(IMAGE_USER, user, accounts)?,
        },
        (None, name) => Base::of_user(RUN_AS_USERNAME, name, accounts)?,
    };
    let gid = security.run_as_group.unwrap_or(base.gid);
    let mut groups = security.supplemental_groups.clone();
    groups.push(gid);
    match (security.supplemental_groups_policy, &base.name) {
        (SupplementalGroupsPolicy::Merge, Some(name)) => groups.extend(accounts.groups_of(name)),
        (SupplementalGroupsPolicy::Merge, None) | (SupplementalGroupsPolicy::Strict, _) => {}
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(User {
        uid: base.uid,
        gid,
        groups,
        home: base.home,
    })
}

/// An account, or a number that has none.
struct Base {
    uid: u32,
    gid: u32,
    name: Option<String>,
    home: String,
}

impl Base {
    /// A number without an account is in group 0, as on the peers.
    fn of_uid(uid: u32, accounts: &Accounts) -> Self {
        let account = accounts.by_uid(uid);
        Self {
            uid,
            gid: account.map_or(0, |account| account.gid),
            name: account.map(|account| account.name.clone()),
            home: home(account.map(|account| account.home.as_str())),
        }
    }

    fn of_user(origin: &'static str, user: &str, accounts: &Accounts) -> Result<Self, SpecError> {
        // A number is an id even where an account is called so: what the image's author wrote cannot be told apart, and
        // a name must not stand for another id than it says.
        if user.bytes().all(|byte| byte.is_ascii_digit()) && !user.is_empty() {
            return Ok(Self::of_uid(id(origin, user)?, accounts));
        }
        let account = accounts
            .by_name(user)
            .ok_or_else(|| SpecError::UnknownUser {
                origin,
                name: user.to_owned(),
            })?;
        Ok(Self {
            uid: account.uid,
            gid: account.gid,
            name: Some(account.name.clone()),
            home: home(Some(account.home.as_str())),
        })
    }

    /// `user`, `uid`, `user:group`, `uid:gid` and the mixtures.
    fn parse(origin: &'static str, text: &str, accounts: &Accounts) -> Result<Self, SpecError> {
        let Some((user, group)) = text.split_once(':') else {
            return Self::of_user(origin, text, accounts);
        };
        let mut base = if user.is_empty() {
            Self::of_uid(0, accounts)
        } else {
            Self::of_user(origin, user, accounts)?
        };
        if group.is_empty() {
            return Ok(base);
        }
        base.gid = if group.bytes().all(|byte| byte.is_ascii_digit()) {
            id(origin, group)?
        } else {
            let found = accounts
                .group(group)
                .ok_or_else(|| SpecError::UnknownGroup {
                    origin,
                    name: group.to_owned(),
                })?;
            found.gid
        };
        Ok(base)
    }
}

fn home(home: Option<&str>) -> String {
    match home {
        None | Some("") => "/".to_owned(),
        Some(home) => home.to_owned(),
    }
}

fn id(origin: &'static str, digits: &str) -> Result<u32, SpecError> {
    match digits.parse::<u32>() {
        Ok(id) if id <= LAST_ID => Ok(id),
        _ => Err(SpecError::field(
            origin,
            digits,
            format!("use an id from 0 to {LAST_ID}"),
        )),
    }
}

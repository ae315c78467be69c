//! From what a person typed to an id: a unique prefix of one, or a unique name.

use cri::v1::{ContainerFilter, PodSandboxFilter};

use crate::error::Error;
use crate::session::Session;

/// As many characters of an id as tables show.
pub(crate) const SHORT_ID: usize = 13;

/// `id` without `prefix` (such as `sha256:`), cut to what tables show.
pub(crate) fn short<'a>(id: &'a str, prefix: &str) -> &'a str {
    let id = id.strip_prefix(prefix).unwrap_or(id);
    match id.char_indices().nth(SHORT_ID) {
        Some((end, _)) => &id[..end],
        None => id,
    }
}

/// What an id can be found by.
#[derive(Debug, Clone)]
struct Candidate {
    id: String,
    name: String,
}

/// Resolves each of `given`; the list is asked for once, and only if something is not a whole id. What matches nothing goes to
/// the runtime as it is, whose answer is the better one.
pub(crate) async fn containers(
    session: &Session,
    given: &[String],
) -> Result<Vec<Result<String, Error>>, Error> {
    if given.iter().all(|id| is_whole(id)) {
        return Ok(given.iter().cloned().map(Ok).collect());
    }
    let listed = session.containers(ContainerFilter::default()).await?;
    let candidates: Vec<_> = listed
        .into_iter()
        .map(|container| Candidate {
            id: container.id,
            name: container.metadata.unwrap_or_default().name,
        })
        .collect();
    Ok(resolve_all("container", given, &candidates))
}

/// As [`containers`], for pods.
pub(crate) async fn pods(
    session: &Session,
    given: &[String],
) -> Result<Vec<Result<String, Error>>, Error> {
    if given.iter().all(|id| is_whole(id)) {
        return Ok(given.iter().cloned().map(Ok).collect());
    }
    let listed = session.pods(PodSandboxFilter::default()).await?;
    let candidates: Vec<_> = listed
        .into_iter()
        .map(|pod| Candidate {
            id: pod.id,
            name: pod.metadata.unwrap_or_default().name,
        })
        .collect();
    Ok(resolve_all("pod", given, &candidates))
}

/// One container.
pub(crate) async fn container(session: &Session, given: &str) -> Result<String, Error> {
    first(containers(session, &[given.to_owned()]).await?, given)
}

/// One pod.
pub(crate) async fn pod(session: &Session, given: &str) -> Result<String, Error> {
    first(pods(session, &[given.to_owned()]).await?, given)
}

fn first(resolved: Vec<Result<String, Error>>, given: &str) -> Result<String, Error> {
    resolved
        .into_iter()
        .next()
        .unwrap_or_else(|| Ok(given.to_owned()))
}

fn is_whole(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn resolve_all(
    what: &str,
    given: &[String],
    candidates: &[Candidate],
) -> Vec<Result<String, Error>> {
    given
        .iter()
        .map(|text| resolve(what, text, candidates).map_err(Error::Refused))
        .collect()
}

/// A whole id wins, then a unique prefix, then a unique name.
fn resolve(what: &str, given: &str, candidates: &[Candidate]) -> Result<String, String> {
    if given.is_empty() {
        return Err(format!("the {what}'s id is empty"));
    }
    if candidates.iter().any(|c| c.id == given) {
        return Ok(given.to_owned());
    }
    let by_id: Vec<_> = candidates
        .iter()
        .filter(|c| c.id.starts_with(given))
        .collect();
    let by_name: Vec<_> = candidates.iter().filter(|c| c.name == given).collect();
    for found in [by_id, by_name] {
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one.id.clone()),
            several => {
                let names: Vec<_> = several
                    .iter()
                    .map(|c| format!("{} ({})", short(&c.id, ""), c.name))
                    .collect();
                return Err(format!(
                    "{what} {given:?} is ambiguous, it can be {}",
                    names.join(", ")
                ));
            }
        }
    }
    Ok(given.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_names_resolve_when_unique() {
        let candidate = |id: &str, name: &str| Candidate {
            id: id.to_owned(),
            name: name.to_owned(),
        };
        let all = [
            candidate("abc111", "web"),
            candidate("abc222", "db"),
            candidate("abc", "abc2"),
            candidate("def333", "web"),
        ];
        assert_eq!(resolve("container", "abc1", &all).unwrap(), "abc111");
        assert_eq!(resolve("container", "abc", &all).unwrap(), "abc");
        assert_eq!(resolve("container", "db", &all).unwrap(), "abc222");
        assert_eq!(resolve("container", "nothing", &all).unwrap(), "nothing");
        assert_eq!(
            resolve("container", "ab", &all).unwrap_err(),
            "container \"ab\" is ambiguous, it can be abc111 (web), abc222 (db), abc (abc2)"
        );
        assert_eq!(
            resolve("container", "web", &all).unwrap_err(),
            "container \"web\" is ambiguous, it can be abc111 (web), def333 (web)"
        );
        assert!(resolve("container", "", &all).is_err());
    }

    #[test]
    fn short_ids_have_thirteen_characters() {
        assert_eq!(short("sha256:0123456789abcdef", "sha256:"), "0123456789abc");
        assert_eq!(short("short", ""), "short");
        assert_eq!(short("éééééééééééééé", ""), "ééééééééééééé");
    }
}

//! What the node's policy says of containers: `contexts/lxc_contexts` of the policy that `/etc/selinux/config` names.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::label::{Label, NoLabel};

/// Labels that containers have, without the categories of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contexts {
    pub(super) process: Label,
    pub(super) file: Label,
}

/// Why the policy's word cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} names no policy: SELINUXTYPE is missing", path.display())]
    NoType { path: PathBuf },
    #[error("{}: {key} is missing", path.display())]
    NoContext { path: PathBuf, key: &'static str },
    #[error("{}: {key}", path.display())]
    Context {
        path: PathBuf,
        key: &'static str,
        #[source]
        source: NoLabel,
    },
}

/// `directory` is `/etc/selinux`. A few small files of the node's own.
pub(super) fn contexts(directory: &Path) -> Result<Contexts, PolicyError> {
    let path = directory.join("config");
    let text = read(&path)?;
    let Some(kind) = value(&text, "SELINUXTYPE") else {
        return Err(PolicyError::NoType { path });
    };
    let path = directory.join(kind).join("contexts/lxc_contexts");
    let text = read(&path)?;
    let label = |key| {
        let given = value(&text, key).ok_or_else(|| PolicyError::NoContext {
            path: path.clone(),
            key,
        })?;
        given.parse().map_err(|source| PolicyError::Context {
            path: path.clone(),
            key,
            source,
        })
    };
    Ok(Contexts {
        process: label("process")?,
        file: label("file")?,
    })
}

fn read(path: &Path) -> Result<String, PolicyError> {
    fs::read_to_string(path).map_err(|source| PolicyError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Of `key = "value"`; `#` and `;` begin a comment.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim);
    let said = lines.filter(|line| !line.starts_with(['#', ';']));
    let mut pairs = said.filter_map(|line| line.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim() == key)?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_s_words_are_read_and_what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let error = |root| contexts(root).unwrap_err().to_string();
        assert!(error(root).contains("read ") && error(root).contains("config"));
        fs::write(
            root.join("config"),
            "# SELINUXTYPE=old\nSELINUX=enforcing\n",
        )
        .unwrap();
        assert!(error(root).contains("SELINUXTYPE"), "{}", error(root));
        fs::write(root.join("config"), "SELINUXTYPE=targeted\n").unwrap();
        assert!(error(root).contains("targeted/contexts/lxc_contexts"));
        let file = root.join("targeted/contexts/lxc_contexts");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "process = \"u:r:container_t:s0\"\n").unwrap();
        assert!(error(root).ends_with("file is missing"), "{}", error(root));
        fs::write(&file, "process = \"u:r:p_t:s0\"\nfile = \"x\"\n").unwrap();
        assert!(
            error(root).ends_with("lxc_contexts: file"),
            "{}",
            error(root)
        );
        fs::write(
            &file,
            "process = \"u:r:p_t:s0\"\nro_file=\"u:o:r_t:s0\"\nfile = \"u:o:f_t:s0\"\n",
        )
        .unwrap();
        let contexts = contexts(root).unwrap();
        assert_eq!(contexts.process.to_string(), "u:r:p_t:s0");
        assert_eq!(contexts.file.to_string(), "u:o:f_t:s0");
    }
}

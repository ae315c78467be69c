//! `process`: what runs, in which environment and directory.

use std::{collections::HashMap, path::PathBuf};

use oci_spec::{
    image::Config,
    runtime::{Process, User as SpecUser},
};

use super::{SpecError, SpecInput, User, apparmor, capabilities};
use crate::selinux::Label;

/// Where the image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(
    input: &SpecInput<'_>,
    user: &User,
    capabilities: &capabilities::Sets,
    label: Option<Label>,
) -> Result<Process, SpecError> {
    let image = input.image.config().as_ref();
    let mut spec_user = SpecUser::default();
    spec_user
        .set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids(Some(user.groups.clone()));
    let mut process = Process::default();
    let security = &input.container.linux.security_context;
    let profile = apparmor::name(security.apparmor.as_ref(), security.privileged, input.host)?;
    process
        .set_apparmor_profile(profile)
        .set_selinux_label(label.map(String::from))
        .set_terminal(Some(input.container.tty))
        .set_console_size(None)
        .set_user(spec_user)
        .set_args(Some(args(input, image)?))
        .set_env(Some(env(input, image, user)?))
        .set_cwd(cwd(input, image)?)
        .set_capabilities(Some(capabilities::sets(capabilities)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(input.container.linux.security_context.no_new_privs))
        // Always: the supervisor's own value is not the container's.
        .set_oom_score_adj(Some(i32::from(
            input.container.linux.resources.oom_score_adj,
        )));
    Ok(process)
}

/// A `command` replaces the image's entrypoint and its cmd, `args` only the cmd.
fn args(input: &SpecInput<'_>, image: Option<&Config>) -> Result<Vec<String>, SpecError> {
    let entrypoint = image.and_then(|image| image.entrypoint().as_deref());
    let cmd = image.and_then(|image| image.cmd().as_deref());
    let container = input.container;
    let (first, rest): (&[String], &[String]) =
        match (container.command.is_empty(), container.args.is_empty()) {
            (false, _) => (&container.command, &container.args),
            (true, false) => (entrypoint.unwrap_or_default(), &container.args),
            (true, true) => (entrypoint.unwrap_or_default(), cmd.unwrap_or_default()),
        };
    let args = [first, rest].concat();
    match args.first().map(String::as_str) {
        None => Err(SpecError::NoCommand {
            image: container.image.image.clone(),
        }),
        Some("") => Err(SpecError::field(
            "config.command",
            "an empty first word",
            "name a program",
        )),
        Some(_) if args.iter().any(|arg| arg.contains('\0')) => Err(SpecError::field(
            "the image's command",
            "a NUL character",
            "mend the image, or set config.command",
        )),
        Some(_) => Ok(args),
    }
}

/// Defaults, then the image's, then the request's: later ones win, in the place of the first. HOME comes last, where nobody
/// has said it.
fn env(
    input: &SpecInput<'_>,
    image: Option<&Config>,
    user: &User,
) -> Result<Vec<String>, SpecError> {
    let mut env = Environment::default();
    env.set("PATH", PATH);
    env.set("HOSTNAME", input.hostname);
    if input.container.tty {
        env.set("TERM", "xterm");
    }
    for entry in image
        .and_then(|image| image.env().as_deref())
        .unwrap_or_default()
    {
        if entry.contains('\0') {
            return Err(SpecError::field(
                "the image's environment",
                format_args!("{entry:?}"),
                "mend the image: a NUL character cannot be in a variable",
            ));
        }
        // A name alone sets nothing.
        if let Some((name, value)) = entry.split_once('=')
            && !name.is_empty()
        {
            env.set(name, value);
        }
    }
    for given in &input.container.envs {
        env.set(&given.key, &given.value);
    }
    if !env.places.contains_key("HOME") {
        env.set("HOME", &user.home);
    }
    Ok(env.entries)
}

#[derive(Default)]
struct Environment {
    entries: Vec<String>,
    places: HashMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self.places.get(name) {
            Some(place) => self.entries[*place] = entry,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }
}

fn cwd(input: &SpecInput<'_>, image: Option<&Config>) -> Result<PathBuf, SpecError> {
    if !input.container.working_dir.is_empty() {
        return Ok(PathBuf::from(&input.container.working_dir));
    }
    match image.and_then(|image| image.working_dir().as_deref()) {
        None | Some("") => Ok(PathBuf::from("/")),
        Some(dir) if dir.contains('\0') => Err(SpecError::field(
            "the image's working directory",
            format_args!("{dir:?}"),
            "mend the image, or set config.working_dir",
        )),
        // Some builders write relative ones, and mean them from the root.
        Some(dir) => Ok(PathBuf::from("/").join(dir)),
    }
}

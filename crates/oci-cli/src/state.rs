//! `state`, and what hooks get.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Serialize;

use crate::log;
use crate::record::{Record, Status};
use crate::store::{Place, Store};

/// By the runtime specification, with runc's additions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    oci_version: &'a str,
    pub(crate) id: &'a str,
    pub(crate) pid: i32,
    pub(crate) status: Status,
    pub(crate) bundle: &'a Path,
    rootfs: &'a Path,
    pub(crate) created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    pub(crate) owner: &'a str,
}

impl<'a> State<'a> {
    pub(crate) fn of(place: &'a Place, record: &'a Record) -> Self {
        Self::at(place, record, record.status(place))
    }

    pub(crate) fn at(place: &'a Place, record: &'a Record, status: Status) -> Self {
        Self {
            oci_version: &record.version,
            id: &place.id,
            // While it is being made hooks find its namespaces by it.
            pid: match record.init {
                Some(init) if status != Status::Stopped => init.pid,
                Some(_) | None => 0,
            },
            status,
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner: "root",
        }
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Prints a container's state.
pub(crate) fn print(store: &Store, id: &str) -> anyhow::Result<u8> {
    let place = store.find(id)?;
    let record = place.made()?;
    log::print(&serde_json::to_string_pretty(&State::of(&place, &record))?);
    Ok(0)
}

/// `annotations` of a specification.
pub(crate) fn annotations(spec: &Spec) -> HashMap<String, String> {
    spec.annotations().clone().unwrap_or_default()
}

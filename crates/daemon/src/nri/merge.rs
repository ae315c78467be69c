//! What all plugins together change in a container, and which of them has changed what. Two plugins never change one thing, unless the later
//! one has taken the earlier one's change away.

use std::collections::BTreeMap;

use nri::{api, api::Field, removal};

/// Two plugins, or one that contradicts itself, want one thing to be different ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins {first} and {second} both change {what}")]
pub(crate) struct Conflict {
    pub(crate) what: String,
    pub(crate) first: String,
    pub(crate) second: String,
}

/// Who has changed what of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners(pub(super) api::FieldOwners);

impl Owners {
    /// `key` is empty for a field without entries.
    fn claim(&mut self, field: Field, key: &str, plugin: &str) -> Result<(), Conflict> {
        let owner = match key {
            "" => self.0.simple.entry(field.into()).or_default(),
            key => {
                let entries = self.0.compound.entry(field.into()).or_default();
                entries.owners.entry(key.to_owned()).or_default()
            }
        };
        if !owner.is_empty() {
            let what = match key {
                "" => field.as_str_name().to_owned(),
                key => format!("{} {key:?}", field.as_str_name()),
            };
            return Err(Conflict {
                what,
                first: owner.clone(),
                second: plugin.to_owned(),
            });
        }
        plugin.clone_into(owner);
        Ok(())
    }

    fn release(&mut self, field: Field, key: &str) {
        match key {
            "" => {
                self.0.simple.remove(&field.into());
            }
            key => {
                if let Some(entries) = self.0.compound.get_mut(&field.into()) {
                    entries.owners.remove(key);
                }
            }
        }
    }

    /// Hooks add up: every plugin that has added some is named.
    fn share(&mut self, field: Field, plugin: &str) {
        let owner = self.0.simple.entry(field.into()).or_default();
        if !owner.is_empty() {
            owner.push(',');
        }
        owner.push_str(plugin);
    }

    pub(super) fn of(&self, field: Field) -> Vec<&str> {
        let simple = self.0.simple.get(&field.into()).into_iter();
        let compound = self.0.compound.get(&field.into());
        let entries = compound
            .into_iter()
            .flat_map(|entries| entries.owners.values());
        simple.chain(entries).map(String::as_str).collect()
    }
}

/// An entry of a list that has a key.
trait Keyed {
    fn key(&self) -> &str;
}

macro_rules! keyed {
    ($($message:ident by $field:ident),*) => {
        $(impl Keyed for api::$message {
            fn key(&self) -> &str {
                &self.$field
            }
        })*
    };
}

keyed!(Mount by destination, KeyValue by key, LinuxDevice by path, LinuxNamespace by r#type);

#[derive(Debug, Clone, Default)]
pub(super) struct Merged {
    pub(super) adjust: api::ContainerAdjustment,
    pub(super) owners: Owners,
}

impl Merged {
    /// Takes what a plugin changes.
    pub(super) fn take(
        &mut self,
        given: api::ContainerAdjustment,
        plugin: &str,
    ) -> Result<(), Conflict> {
        let (all, owners) = (&mut self.adjust, &mut self.owners);
        map(
            owners,
            Field::Annotations,
            &mut all.annotations,
            given.annotations,
            plugin,
        )?;
        list(owners, Field::Mounts, &mut all.mounts, given.mounts, plugin)?;
        list(owners, Field::Env, &mut all.env, given.env, plugin)?;
        if let Some(first) = given.args.first() {
            let mut args = given.args.as_slice();
            if first.is_empty() {
                owners.release(Field::Args, "");
                args = &args[1..];
            }
            owners.claim(Field::Args, "", plugin)?;
            all.args = args.to_vec();
        }
        if let Some(hooks) = given.hooks.filter(|hooks| *hooks != api::Hooks::default()) {
            owners.share(Field::OciHooks, plugin);
            let known = all.hooks.get_or_insert_default();
            known.prestart.extend(hooks.prestart);
            known.create_runtime.extend(hooks.create_runtime);
            known.create_container.extend(hooks.create_container);
            known.start_container.extend(hooks.start_container);
            known.poststart.extend(hooks.poststart);
            known.poststop.extend(hooks.poststop);
        }
        for limit in given.rlimits {
            owners.claim(Field::Rlimits, &limit.r#type, plugin)?;
            all.rlimits.push(limit);
        }
        for device in given.cdi_devices {
            owners.claim(Field::CdiDevices, &device.name, plugin)?;
            all.cdi_devices.push(device);
        }
        match given.linux {
            Some(linux) => self.take_linux(linux, plugin),
            None => Ok(()),
        }
    }

    fn take_linux(
        &mut self,
        given: api::LinuxContainerAdjustment,
        plugin: &str,
    ) -> Result<(), Conflict> {
        let owners = &mut self.owners;
        let all = self.adjust.linux.get_or_insert_default();
        list(
            owners,
            Field::Devices,
            &mut all.devices,
            given.devices,
            plugin,
        )?;
        list(
            owners,
            Field::Namespace,
            &mut all.namespaces,
            given.namespaces,
            plugin,
        )?;
        map(owners, Field::Sysctl, &mut all.sysctl, given.sysctl, plugin)?;
        map(
            owners,
            Field::LinuxNetDevices,
            &mut all.net_devices,
            given.net_devices,
            plugin,
        )?;
        if let Some(resources) = given.resources {
            let known = all.resources.get_or_insert_default();
            take_resources(owners, known, resources, plugin)?;
        }
        if !given.cgroups_path.is_empty() {
            owners.claim(Field::CgroupsPath, "", plugin)?;
            all.cgroups_path = given.cgroups_path;
        }
        one(
            owners,
            Field::OomScoreAdj,
            &mut all.oom_score_adj,
            given.oom_score_adj,
            plugin,
        )?;
        one(
            owners,
            Field::IoPriority,
            &mut all.io_priority,
            given.io_priority,
            plugin,
        )?;
        one(
            owners,
            Field::SeccompPolicy,
            &mut all.seccomp_policy,
            given.seccomp_policy,
            plugin,
        )?;
        one(
            owners,
            Field::LinuxSched,
            &mut all.scheduler,
            given.scheduler,
            plugin,
        )?;
        one(
            owners,
            Field::MemoryPolicy,
            &mut all.memory_policy,
            given.memory_policy,
            plugin,
        )?;
        let Some(rdt) = given.rdt else {
            return Ok(());
        };
        let known = all.rdt.get_or_insert_default();
        if rdt.remove {
            for field in [
                Field::RdtClosId,
                Field::RdtSchemata,
                Field::RdtEnableMonitoring,
            ] {
                owners.release(field, "");
            }
            *known = api::LinuxRdt {
                remove: true,
                ..Default::default()
            };
        }
        one(
            owners,
            Field::RdtClosId,
            &mut known.clos_id,
            rdt.clos_id,
            plugin,
        )?;
        one(
            owners,
            Field::RdtSchemata,
            &mut known.schemata,
            rdt.schemata,
            plugin,
        )?;
        one(
            owners,
            Field::RdtEnableMonitoring,
            &mut known.enable_monitoring,
            rdt.enable_monitoring,
            plugin,
        )
    }
}

/// Limits of a container that is made, or that lives: each field that is given is its plugin's.
pub(super) fn take_resources(
    owners: &mut Owners,
    all: &mut api::LinuxResources,
    given: api::LinuxResources,
    plugin: &str,
) -> Result<(), Conflict> {
    if let Some(memory) = given.memory {
        let known = all.memory.get_or_insert_default();
        one(
            owners,
            Field::MemLimit,
            &mut known.limit,
            memory.limit,
            plugin,
        )?;
        one(
            owners,
            Field::MemReservation,
            &mut known.reservation,
            memory.reservation,
            plugin,
        )?;
        one(
            owners,
            Field::MemSwapLimit,
            &mut known.swap,
            memory.swap,
            plugin,
        )?;
        one(
            owners,
            Field::MemKernelLimit,
            &mut known.kernel,
            memory.kernel,
            plugin,
        )?;
        one(
            owners,
            Field::MemTcpLimit,
            &mut known.kernel_tcp,
            memory.kernel_tcp,
            plugin,
        )?;
        one(
            owners,
            Field::MemSwappiness,
            &mut known.swappiness,
            memory.swappiness,
            plugin,
        )?;
        one(
            owners,
            Field::MemDisableOomKiller,
            &mut known.disable_oom_killer,
            memory.disable_oom_killer,
            plugin,
        )?;
        one(
            owners,
            Field::MemUseHierarchy,
            &mut known.use_hierarchy,
            memory.use_hierarchy,
            plugin,
        )?;
    }
    if let Some(cpu) = given.cpu {
        let known = all.cpu.get_or_insert_default();
        one(
            owners,
            Field::CpuShares,
            &mut known.shares,
            cpu.shares,
            plugin,
        )?;
        one(owners, Field::CpuQuota, &mut known.quota, cpu.quota, plugin)?;
        one(
            owners,
            Field::CpuPeriod,
            &mut known.period,
            cpu.period,
            plugin,
        )?;
        one(
            owners,
            Field::CpuRealtimeRuntime,
            &mut known.realtime_runtime,
            cpu.realtime_runtime,
            plugin,
        )?;
        one(
            owners,
            Field::CpuRealtimePeriod,
            &mut known.realtime_period,
            cpu.realtime_period,
            plugin,
        )?;
        for (field, known, given) in [
            (Field::CpuSetCpUs, &mut known.cpus, cpu.cpus),
            (Field::CpuSetMems, &mut known.mems, cpu.mems),
        ] {
            if !given.is_empty() {
                owners.claim(field, "", plugin)?;
                *known = given;
            }
        }
    }
    for limit in given.hugepage_limits {
        owners.claim(Field::HugepageLimits, &limit.page_size, plugin)?;
        all.hugepage_limits.push(limit);
    }
    for (name, value) in given.unified {
        owners.claim(Field::CgroupsUnified, &name, plugin)?;
        all.unified.insert(name, value);
    }
    all.devices.extend(given.devices);
    one(
        owners,
        Field::BlockioClass,
        &mut all.blockio_class,
        given.blockio_class,
        plugin,
    )?;
    one(
        owners,
        Field::RdtClass,
        &mut all.rdt_class,
        given.rdt_class,
        plugin,
    )?;
    one(owners, Field::PidsLimit, &mut all.pids, given.pids, plugin)
}

fn one<T>(
    owners: &mut Owners,
    field: Field,
    known: &mut Option<T>,
    given: Option<T>,
    plugin: &str,
) -> Result<(), Conflict> {
    if given.is_some() {
        owners.claim(field, "", plugin)?;
        *known = given;
    }
    Ok(())
}

/// Removals first: a plugin that takes an entry away may put another in its place.
fn list<T: Keyed>(
    owners: &mut Owners,
    field: Field,
    known: &mut Vec<T>,
    given: Vec<T>,
    plugin: &str,
) -> Result<(), Conflict> {
    let (removed, added): (Vec<T>, Vec<T>) = given
        .into_iter()
        .partition(|one| removal(one.key()).is_some());
    for one in removed {
        let key = removal(one.key()).unwrap_or_default().to_owned();
        owners.release(field, &key);
        known.retain(|other| other.key() != key);
        known.push(one);
    }
    for one in added {
        owners.claim(field, one.key(), plugin)?;
        known.push(one);
    }
    Ok(())
}

fn map<T>(
    owners: &mut Owners,
    field: Field,
    known: &mut BTreeMap<String, T>,
    given: BTreeMap<String, T>,
    plugin: &str,
) -> Result<(), Conflict> {
    let (removed, added): (BTreeMap<_, _>, BTreeMap<_, _>) = given
        .into_iter()
        .partition(|(key, _)| removal(key).is_some());
    for (marked, value) in removed {
        let key = removal(&marked).unwrap_or_default();
        owners.release(field, key);
        known.remove(key);
        known.insert(marked, value);
    }
    for (key, value) in added {
        owners.claim(field, &key, plugin)?;
        known.insert(key, value);
    }
    Ok(())
}

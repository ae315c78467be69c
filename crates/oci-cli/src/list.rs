use crate::arguments::{List, TableFormat};
use crate::log;
use crate::record::Record;
use crate::state::State;
use crate::store::{Place, Store};

/// Lists the containers that were made.
pub(crate) fn list(store: &Store, given: &List) -> anyhow::Result<u8> {
    let containers: Vec<(Place, Record)> = store
        .all()?
        .into_iter()
        .filter_map(|place| {
            let record = place.record().ok()??;
            Some((place, record))
        })
        .collect();
    let states = containers
        .iter()
        .map(|(place, record)| State::of(place, record));
    if given.quiet {
        states.for_each(|state| log::print(state.id));
        return Ok(0);
    }
    match given.format {
        TableFormat::Json => {
            log::print(&serde_json::to_string(&states.collect::<Vec<_>>())?);
        }
        TableFormat::Table => {
            let mut rows =
                vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(states.map(|state| {
                [
                    state.id.to_owned(),
                    state.pid.to_string(),
                    state.status.name().to_owned(),
                    state.bundle.display().to_string(),
                    state.created.to_owned(),
                    state.owner.to_owned(),
                ]
            }));
            print_table(&rows);
        }
    }
    Ok(0)
}

fn print_table(rows: &[[String; 6]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in rows {
        let cells = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        log::print(cells.collect::<Vec<_>>().join("   ").trim_end());
    }
}

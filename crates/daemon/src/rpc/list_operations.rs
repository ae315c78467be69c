use std::{sync::Arc, time::Duration};

use cri::progress::{Call, ListOperationsRequest, ListOperationsResponse, Operation};
use tonic::{Request, Status};

use crate::runtime::Runtime;

pub(super) fn list_operations(
    runtime: &Arc<Runtime>,
    _request: &Request<ListOperationsRequest>,
) -> Result<ListOperationsResponse, Status> {
    let mut operations = runtime.operations();
    operations.sort_by_key(|operation| std::cmp::Reverse(operation.age));
    let mut calls = runtime.calls.now();
    // The youngest of these is the one that asks.
    if let Some(own) = calls.iter().rposition(|(rpc, _)| rpc == "ListOperations") {
        calls.remove(own);
    }
    Ok(ListOperationsResponse {
        operations: operations
            .into_iter()
            .map(|operation| Operation {
                rpc: operation.rpc.to_owned(),
                id: operation.id,
                name: operation.name,
                stage: operation.stage.into_owned(),
                age_ns: nanoseconds(operation.age),
                stage_age_ns: operation.stage_age.map_or(0, nanoseconds),
            })
            .collect(),
        calls: calls
            .into_iter()
            .map(|(rpc, age)| Call {
                rpc,
                age_ns: nanoseconds(age),
            })
            .collect(),
    })
}

fn nanoseconds(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

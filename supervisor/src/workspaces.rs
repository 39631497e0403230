//! The workspaces of the node: finds the owner of one, or makes it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use cordium_proto::v1::{Limit, StoppingReason, Usage, WorkspaceState};
use tokio::sync::oneshot;

use crate::{
    context::Context,
    plan::{RunPlan, Secrets},
    request_error::RequestError,
    store::{Record, StoreError},
    usage, volumes,
    workspace::{Handle, Reply, Request, View},
};

/// Every workspace that has a record on this node.
pub struct Workspaces {
    context: Arc<Context>,
    owners: Mutex<HashMap<String, Handle>>,
}

impl Workspaces {
    /// Reads the records and starts an owner for each; those whose run was under way take it over.
    pub fn open(context: Arc<Context>) -> Result<Self, StoreError> {
        let records = context.store.reader().records()?;
        for record in records.iter().filter(|record| record.state() != WorkspaceState::Stopped) {
            context.volumes.adopt(record.uid(), volumes::named_in(&record.spec_json));
        }
        for record in &records {
            let storage = context.dirs.volume(record.uid());
            context.ids.adopt(record.uid(), &storage, record.state() != WorkspaceState::Stopped);
        }
        let owners = records
            .into_iter()
            .map(|record| (record.uid().to_owned(), Handle::spawn(context.clone(), record)))
            .collect();
        Ok(Self { context, owners: Mutex::new(owners) })
    }

    /// Where the node's egress broker takes registrations.
    pub fn broker_socket(&self) -> &Path {
        &self.context.sandbox.broker_socket
    }

    /// The workspace's owner, if there is one.
    pub fn find(&self, uid: &str) -> Option<Handle> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.get(uid).is_some_and(Handle::is_closed) {
            owners.remove(uid);
        }
        owners.get(uid).cloned()
    }

    fn find_or_make(&self, uid: &str) -> Handle {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        match owners.get(uid) {
            Some(owner) if !owner.is_closed() => owner.clone(),
            _ => {
                let record = Record::new(uid, &self.context.name);
                let owner = Handle::spawn(self.context.clone(), record);
                owners.insert(uid.to_owned(), owner.clone());
                owner
            }
        }
    }

    /// What running workspaces were promised together, and how many they are.
    pub fn allocated(&self) -> (Limit, u32) {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Limit::default();
        let mut running = 0;
        for View { limit, .. } in owners.values().map(Handle::view) {
            let Some(limit) = limit else { continue };
            running += 1;
            sum.cpu_millicores += limit.cpu_millicores;
            sum.memory_mib += limit.memory_mib;
            sum.storage_mib += limit.storage_mib;
            sum.pids += limit.pids;
        }
        (sum, running)
    }

    /// What running workspaces use: these, or all.
    pub fn usage(&self, uids: &[String]) -> HashMap<String, Usage> {
        let running: Vec<_> = {
            let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = owners.iter().filter(|(uid, _)| uids.is_empty() || uids.contains(uid));
            wanted.filter_map(|(uid, owner)| Some((uid.clone(), owner.view().sandbox?))).collect()
        };
        running.into_iter().map(|(uid, sandbox)| (uid, usage::of_sandbox(sandbox.as_ref()))).collect()
    }

    /// Begins a run; INIT_REQUEST is durable when this returns.
    pub async fn start(&self, plan: RunPlan, spec_json: String) -> Result<u64, RequestError> {
        let run_id = plan.prepare.run_id.clone();
        let uid = plan.prepare.workspace_uid.clone();
        let store = self.context.store.clone();
        let known = tokio::task::spawn_blocking(move || store.reader().run(&run_id))
            .await
            .unwrap_or(Err(StoreError::Closed))?;
        match known {
            Some((owner, revision)) if owner == uid => return Ok(revision),
            Some(_) => {
                let message = format!("run_id: {:?} belongs to another workspace", plan.prepare.run_id);
                return Err(RequestError::Exists(message));
            }
            None => {}
        }
        let owner = self.find_or_make(&uid);
        ask(&owner, |reply| Request::Start { plan: Box::new(plan), spec_json, reply }).await
    }

    /// Ends a run; the request is durable when this returns.
    pub async fn stop(&self, uid: &str, reason: StoppingReason, force: bool) -> Result<u64, RequestError> {
        let owner = self.known(uid)?;
        ask(&owner, |reply| Request::Stop { reason, force, reply }).await
    }

    /// Changes what a run may reach. Durable when this returns; says whether its sandbox goes by it already.
    pub async fn set_egress(
        &self,
        uid: &str,
        run_id: String,
        egress: cordium_spec::Egress,
        secrets: Secrets,
    ) -> Result<bool, RequestError> {
        let owner = self.known(uid)?;
        ask(&owner, |reply| Request::SetEgress { run_id, egress: Box::new(egress), secrets, reply }).await
    }

    /// Removes a workspace. One that is not there is fine.
    pub async fn delete(&self, uid: &str) -> Result<(), RequestError> {
        match self.find(uid) {
            Some(owner) => {
                let deleted = ask(&owner, |reply| Request::Delete { reply }).await;
                self.forget_closed();
                deleted
            }
            None => Ok(()),
        }
    }

    /// Also those whose deletion nobody waited for.
    fn forget_closed(&self) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, owner| !owner.is_closed());
    }

    /// The workspace's owner, or NOT_FOUND.
    pub fn known(&self, uid: &str) -> Result<Handle, RequestError> {
        self.find(uid).ok_or_else(|| RequestError::NotFound(format!("workspace {uid:?} is not on this node")))
    }
}

async fn ask<T>(owner: &Handle, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
    let (reply, answer) = oneshot::channel();
    let gone =
        || RequestError::Unavailable("the workspace has just been deleted, or the node is ending".to_owned());
    owner.send(request(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

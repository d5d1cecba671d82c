//! The super-nodes: adding, promoting, removing them, and who leads.
//!
//! Each call returns when the cluster has done it. All of them may be repeated: what is so already is answered like what
//! was just done. An error whose outcome is `unknown` means that the change may complete yet.

use reqwest::Method;
use serde_json::json;

use super::{Answer, Call, Client, ClientError, segment};

/// A super-node that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSuperNode {
    /// Its id, which no member has had.
    pub id: String,
    /// Where the others reach it: `host:port` of its peer listener.
    pub address: String,
    /// The voter that leaves in the very change that gives this one its vote.
    pub replaces: Option<String>,
    /// Whether it only follows, and never votes by itself.
    pub learner_only: bool,
}

fn act(id: &str, action: &str) -> Result<Call, ClientError> {
    let path = format!("/v1/members/{}:{action}", segment(id)?);
    Ok(Call::new(Method::POST, path).find_out("super-node status"))
}

impl Client {
    /// Adds a super-node as a learner. Unless it is to remain one, it becomes a voter by itself once it runs and has
    /// caught up; `GET /v1/status` shows that.
    pub async fn add_super_node(&self, node: &NewSuperNode) -> Result<Answer, ClientError> {
        let body = json!({ "id": node.id, "kind": "super_node", "address": node.address,
            "replaces": node.replaces, "learner_only": node.learner_only });
        let call = Call::new(Method::POST, "/v1/members").body(&body);
        self.send(call.find_out("super-node status")).await
    }

    /// Makes a voter of a learner that has caught up.
    pub async fn promote(&self, id: &str) -> Result<Answer, ClientError> {
        self.send(act(id, "promote")?).await
    }

    /// Makes a learner of a voter.
    pub async fn demote(&self, id: &str) -> Result<Answer, ClientError> {
        self.send(act(id, "demote")?).await
    }

    /// Lets a member leave: an agent the fleet, a super-node the configuration too.
    pub async fn remove_member(&self, id: &str) -> Result<Answer, ClientError> {
        let call = Call::new(Method::DELETE, format!("/v1/members/{}", segment(id)?));
        self.send(call.find_out("super-node status; super-node member list")).await
    }

    /// Hands the leadership over, to `to` or to whom the leader likes, and returns when another node leads.
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<Answer, ClientError> {
        let body = to.map_or(json!({}), |to| json!({ "to": to }));
        let call = Call::new(Method::POST, "/v1/leader:transfer").body(&body);
        self.send(call.find_out("super-node leader show")).await
    }
}

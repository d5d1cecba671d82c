// What was the balance of a member at a time?
//
//   member   whose account
//   at       the moment: "$$NOW", or for example { "$toDate": "2026-11-30T17:26:06Z" }
//
// One document: the last movement until then and the balance after it. None: nothing had moved yet, the balance was 0.
db.rewards.aggregate(
  [
    { "$match": { "$expr": { "$and": [{ "$eq": ["$member", "$$member"] }, { "$lte": ["$at", "$$at"] }] } } },
    { "$sort": { "member": 1, "_id": -1 } },
    { "$limit": 1 },
    { "$project": {
      "_id": "$member",
      "points": { "$divide": ["$balance", 1000000] },
      "seq": "$_id",
      "since": "$at",
      "reason": 1
    } }
  ],
  { "let": { "member": "worker-1", "at": "$$NOW" } }
).forEach(printjson)

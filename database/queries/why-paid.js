// Why was a member paid or fined so much in an interval?
//
//   member     who
//   interval   its number; see also `super-node interval explain MEMBER ID`
//
// One document: what each observer saw, what came of it, the movements, and how the interval was judged.
db.observations.aggregate(
  [
    { "$match": { "$expr": { "$and": [{ "$eq": ["$_id.i", "$$interval"] }, { "$eq": ["$_id.m", "$$member"] }] } } },
    { "$lookup": {
      "from": "rewards",
      "localField": "_id.i",
      "foreignField": "interval",
      "let": { "who": "$_id.m" },
      "pipeline": [
        { "$match": { "$expr": { "$eq": ["$member", "$$who"] } } },
        { "$sort": { "_id": 1 } },
        { "$project": { "_id": 0, "seq": "$_id", "kind": 1, "amount": 1, "balance": 1, "reason": 1 } }
      ],
      "as": "movements"
    } },
    { "$lookup": {
      "from": "intervals",
      "localField": "_id.i",
      "foreignField": "_id",
      "pipeline": [
        { "$project": { "_id": 0, "opened_at": 1, "cut_at": 1, "policy": 1, "verdict": 1, "reason": 1, "observers": 1 } }
      ],
      "as": "judged"
    } },
    { "$unwind": "$judged" }
  ],
  { "let": { "member": "worker-1", "interval": 1 } }
).forEach(printjson)

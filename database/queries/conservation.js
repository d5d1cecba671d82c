// Do the movements of each account add up to its balance?
//
// Nothing: they do, and no point was made or lost. Otherwise one document per account: the sum of its movements, the
// balance after its last one, and the balance that its member has. All of them are read up to the same place, so run it
// while nothing is projected, or twice: only what both runs show is wrong.
db.rewards.aggregate(
  [
    { "$sort": { "_id": 1 } },
    { "$group": { "_id": "$member", "sum": { "$sum": "$amount" }, "last": { "$last": "$balance" }, "seq": { "$last": "$_id" } } },
    { "$unionWith": { "coll": "members", "pipeline": [{ "$project": { "balance": 1, "as_of": 1 } }] } },
    { "$group": {
      "_id": "$_id",
      "sum": { "$sum": "$sum" },
      "last": { "$sum": "$last" },
      "balance": { "$sum": "$balance" },
      "movements_to": { "$max": "$seq" },
      "member_as_of": { "$max": "$as_of" }
    } },
    { "$match": { "$expr": { "$not": [{ "$and": [{ "$eq": ["$sum", "$last"] }, { "$eq": ["$sum", "$balance"] }] }] } } },
    { "$sort": { "_id": 1 } }
  ],
  { "allowDiskUse": true }
).forEach(printjson)

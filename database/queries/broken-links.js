// Does every record name the hash of the one before it?
//
// Nothing: both chains hold together. Otherwise one document per break. (That each hash follows from its own record is
// checked by `super-node ledger verify --mongodb`; no aggregation computes SHA-256.)
db.rewards.aggregate(
  [
    { "$project": { "hash": 1, "prev_hash": 1 } },
    { "$setWindowFields": { "sortBy": { "_id": 1 }, "output": { "expected": { "$shift": { "output": "$hash", "by": -1 } } } } },
    { "$set": { "collection": "rewards" } },
    { "$unionWith": { "coll": "intervals", "pipeline": [
      { "$project": { "hash": 1, "prev_hash": 1 } },
      { "$setWindowFields": { "sortBy": { "_id": 1 }, "output": { "expected": { "$shift": { "output": "$hash", "by": -1 } } } } },
      { "$set": { "collection": "intervals" } }
    ] } },
    { "$match": { "expected": { "$ne": null }, "$expr": { "$ne": ["$prev_hash", "$expected"] } } },
    { "$project": { "_id": 0, "collection": 1, "number": "$_id", "prev_hash": 1, "expected": 1 } },
    { "$sort": { "collection": 1, "number": 1 } }
  ],
  { "allowDiskUse": true }
).forEach(printjson)

// Is a movement or an interval missing in between?
//
// Nothing: both are contiguous. Otherwise one document per hole: the collection, and the first and last number missing.
db.rewards.aggregate(
  [
    { "$project": { "_id": 1 } },
    { "$setWindowFields": {
      "sortBy": { "_id": 1 },
      "output": { "before": { "$shift": { "output": "$_id", "by": -1, "default": 0 } } }
    } },
    { "$set": { "collection": "rewards" } },
    { "$unionWith": { "coll": "intervals", "pipeline": [
      { "$project": { "_id": 1 } },
      { "$setWindowFields": {
        "sortBy": { "_id": 1 },
        "output": { "before": { "$shift": { "output": "$_id", "by": -1, "default": 0 } } }
      } },
      { "$set": { "collection": "intervals" } }
    ] } },
    { "$match": { "$expr": { "$ne": ["$_id", { "$add": ["$before", 1] }] } } },
    { "$project": { "_id": 0, "collection": 1, "first": { "$add": ["$before", 1] }, "last": { "$subtract": ["$_id", 1] } } },
    { "$sort": { "collection": 1, "first": 1 } }
  ],
  { "allowDiskUse": true }
).forEach(printjson)

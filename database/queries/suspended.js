// Who is suspended or on probation, and what led to it?
//
// One document per member: its strikes, for how many intervals more, and the last five intervals in which it missed pings,
// newest first: what each observer that counted saw, and the fine.
db.members.aggregate(
  [
    { "$match": { "status": { "$in": ["suspended", "probation"] } } },
    { "$lookup": {
      "from": "observations",
      "localField": "_id",
      "foreignField": "_id.m",
      "pipeline": [
        { "$match": { "missed": { "$gt": 0 } } },
        { "$sort": { "_id.i": -1 } },
        { "$limit": 5 },
        { "$project": {
          "_id": 0,
          "interval": "$_id.i",
          "sent": 1,
          "missed": 1,
          "strikes": 1,
          "status": 1,
          "by": 1,
          "fined_points": { "$divide": ["$penalty", 1000000] }
        } }
      ],
      "as": "cause"
    } },
    { "$project": {
      "status": 1,
      "strikes": 1,
      "suspensions": 1,
      "remaining": 1,
      "points": { "$divide": ["$balance", 1000000] },
      "cause": 1
    } },
    { "$sort": { "status": -1, "remaining": -1, "_id": 1 } }
  ]
).forEach(printjson)

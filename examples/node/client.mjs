// A client without Python: it starts, watches and cancels sagas through SQL only.
//
//     npm install pg && EVENTSAGA_DATABASE_URL=postgresql://… node examples/node/client.mjs
//
// `eventsaga worker examples.orders:order_saga` runs the saga.

import pg from "pg";

const client = new pg.Client({ connectionString: process.env.EVENTSAGA_DATABASE_URL });
await client.connect();

const start = async (context, key) => {
  const { rows } = await client.query(
    "SELECT eventsaga.start_saga('order', $1::jsonb, key => $2) AS id",
    [JSON.stringify(context), key],
  );
  return rows[0].id;
};

// What is rolled back has not happened.
await client.query("BEGIN");
const forgotten = await start({ order_id: 1 }, "node-1");
await client.query("ROLLBACK");

const saga = await start({ order_id: 2 }, "node-2");
console.log(saga === (await start({ order_id: 2 }, "node-2")) ? "started once" : "started twice");

const look = async (id) => {
  const { rows } = await client.query(
    "SELECT status, context FROM eventsaga.saga_list WHERE saga_id = $1",
    [id],
  );
  return rows[0];
};
console.log(await look(forgotten));

let seen = await look(saga);
while (!["COMPLETED", "COMPENSATED", "FAILED", "PARKED"].includes(seen.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  seen = await look(saga);
}
console.log(seen.status, seen.context.order_id);

try {
  await client.query("SELECT eventsaga.cancel_saga($1, 'too late')", [saga]);
} catch (error) {
  console.log(error.code); // 55000: it has ended
}
await client.end();

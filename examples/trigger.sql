-- A row of your own table starts a saga, whoever inserts it, in whatever language.
--
--     psql $EVENTSAGA_DATABASE_URL -f examples/trigger.sql
--     eventsaga worker examples.orders:order_saga

CREATE TABLE shop_orders (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    total integer NOT NULL
);

CREATE FUNCTION begin_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM eventsaga.start_saga(
        'order',
        jsonb_build_object('order_id', new.id, 'total', new.total),
        key => 'order-' || new.id);
    RETURN new;
END $$;

CREATE TRIGGER begin_order AFTER INSERT ON shop_orders
    FOR EACH ROW EXECUTE FUNCTION begin_order();

-- Passes the sites of postgres that one session can pass: queries (simple, prepared, rewritten by a rule), every kind of
-- sort, transactions that commit, abort and nest, two-phase commit, buffers that are read, dirtied and flushed (the server
-- is given very few), WAL switches, checkpoints. Prints only what is the same in every run.
\set ON_ERROR_STOP off
\set VERBOSITY terse
create table numbers as select g as n, md5(g::text) as digest, g % 97 as bucket from generate_series(1, 6000) g;
alter table numbers add primary key (n);
create index on numbers using btree (digest);
create index on numbers using hash (bucket);
create index on numbers using brin (n);
create index on numbers using gist (point(n, bucket));
create index on numbers using gin (to_tsvector('simple', digest));
cluster numbers using numbers_digest_idx;
set enable_indexscan = off; -- the same by a sort
cluster numbers using numbers_pkey;
reset enable_indexscan;
analyze numbers;
set work_mem = '64kB';
select count(*), min(digest), max(digest) from (select digest from numbers order by bucket, digest desc) s;
select md5(string_agg(digest, '' order by bucket, n)) from numbers;
select bucket, count(distinct digest) from numbers group by bucket order by 2 desc, 1 limit 3;
select percentile_disc(0.5) within group (order by n) from numbers;
select n, rank() over (partition by bucket order by digest) from numbers where bucket < 2 order by n limit 5;
explain (costs off) select * from numbers a join numbers b using (digest) order by a.n limit 3;
reset work_mem;
prepare one (int) as select digest from numbers where n = $1;
execute one(7);
execute one(4711);
create view small as select * from numbers where n <= 10;
create rule small_insert as on insert to small do instead insert into numbers values (new.n, new.digest, new.bucket);
insert into small values (-1, 'by a rule', 5);
select * from numbers where n < 0;
begin;
update numbers set bucket = bucket + 1 where n <= 1000;
savepoint a;
delete from numbers where n > 10;
rollback to a;
savepoint b;
insert into numbers values (1, 'duplicate', 0);
rollback to b;
commit;
select sum(bucket) from numbers;
begin;
truncate numbers;
rollback;
select count(*) from numbers;
begin;
insert into numbers values (100001, 'prepared', 1);
prepare transaction 'two';
checkpoint;
commit prepared 'two';
select 1 / 0;
select no_such_column from numbers;
do $$
begin
  for i in 1..50 loop
    begin
      perform 1 / (i % 2);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
create function deep(i int) returns int language plpgsql as
  $$ begin return case when i = 0 then 0 else 1 + deep(i - 1) end; end $$;
select deep(100);
select pg_switch_wal() is not null;
insert into numbers select g, repeat(md5(g::text), 20), 1 from generate_series(200001, 205000) g;
vacuum numbers;
vacuum full numbers;
select count(*), sum(n), sum(length(digest)) from numbers;
checkpoint;
copy (select n, bucket from numbers where n between 1 and 5 order by n) to stdout;
drop table numbers cascade;
select 'end of the script';

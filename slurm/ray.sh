# Ray on one node of a job, started by slurm/dataprep.sh on every node; it does not return while Ray runs.

options=(--block --num-cpus="$CPUS" --memory="$WORKER_BYTES" --object-store-memory="$STORE_BYTES")
if ((SLURM_NODEID == 0)); then
  options+=(--head --port="$PORT" --node-ip-address="${ADDRESS%:*}" --include-dashboard=false)
else
  until "$PYTHON" -m ray.scripts.scripts health-check --address "$ADDRESS" >/dev/null 2>&1; do sleep 1; done
  options+=(--address="$ADDRESS")
fi
exec "$PYTHON" -m ray.scripts.scripts start "${options[@]}"

#!/bin/sh
# Starts a Sentinel of docker/compose.yaml, profile `ha`. From the environment:
#
#   SENTINEL_HOST      the name by which the others reach it
#   REPLICATOR_REDIS   the URL that the nodes have: it has to name the Sentinels
set -eu

case $REPLICATOR_REDIS in
  redis+sentinel://*) ;;
  *)
    echo "the nodes do not ask the Sentinels ($REPLICATOR_REDIS): add --env-file docker/ha.env" >&2
    exit 2
    ;;
esac

# A Sentinel writes what it learns into its file: who the master is now, and who else there is.
conf=/data/sentinel.conf
if [ ! -e "$conf" ]; then
  cat > "$conf" << END
port 26379
dir /data
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip ${SENTINEL_HOST}
sentinel monitor registry redis 6379 2
sentinel down-after-milliseconds registry 5000
sentinel failover-timeout registry 10000
sentinel parallel-syncs registry 1
END
fi
# The password may be another one by now.
sed -i '/^sentinel auth-pass /d' "$conf"
echo "sentinel auth-pass registry $(cat /run/secrets/redis-password)" >> "$conf"

exec redis-server "$conf" --sentinel

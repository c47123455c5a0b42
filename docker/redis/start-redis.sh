#!/bin/sh
# Starts a Redis of docker/compose.yaml. From the environment:
#
#   REDIS_HOST           the name by which the others reach it
#   REDIS_REPLICA_OF     the server that it follows when it starts for the first time; without: it is the master
#   REDIS_MIN_REPLICAS   how many replicas a write needs, so that a master that is cut off takes none
#   REDIS_MAXMEMORY      well below the limit of the container: a rewrite of the AOF needs memory, too
set -eu

password=$(cat /run/secrets/redis-password)
case $password in
  '' | *[!A-Za-z0-9_.-]*)
    echo "redis-password has to be one line of letters, digits, '_', '.' and '-': openssl rand -hex 32" >&2
    exit 2
    ;;
esac

# Who follows whom is in this file. A Sentinel that changes it has Redis write it down here (CONFIG REWRITE), so a server
# that is started again is what it was last, and not what it was first. Everything else is given anew at each start.
conf=/data/redis.conf
if [ ! -e "$conf" ]; then
  echo "${REDIS_REPLICA_OF:+replicaof $REDIS_REPLICA_OF 6379}" > "$conf"
fi

# Without the AOF a restart of Redis loses the log; without noeviction a full Redis may evict the term.
exec redis-server "$conf" - << END
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory ${REDIS_MAXMEMORY}
maxmemory-policy noeviction
replica-announce-ip ${REDIS_HOST}
min-replicas-to-write ${REDIS_MIN_REPLICAS}
min-replicas-max-lag 10
requirepass ${password}
masterauth ${password}
END

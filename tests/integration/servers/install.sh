#!/usr/bin/env bash
# Installs the servers that the integration tests start: what is missing, and nothing twice. Kafka's jars and the S3
# gateway go to ~/.cache/lockstep-test-servers, PostgreSQL comes from the system's packages.
set -euo pipefail
KAFKA=4.1.0
VERSITYGW=v1.8.0
APICURIO=3.0.9
root="${HOME}/.cache/lockstep-test-servers"
mkdir -p "${root}/bin" "${root}/kafka"

say() { printf 'test servers: %s\n' "$*"; }

need() { command -v "$1" >/dev/null || { say "$1 is needed to install $2; install it and run this again" >&2; exit 1; }; }

if compgen -G "${root}/kafka/libs/kafka_2.13-${KAFKA}.jar" >/dev/null; then
  say "Kafka ${KAFKA} is there"
else
  need mvn Kafka
  say "fetching Kafka ${KAFKA}"
  work="$(mktemp -d)"
  cat >"${work}/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>lockstep</groupId>
  <artifactId>test-servers</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>${KAFKA}</version>
    </dependency>
  </dependencies>
</project>
POM
  (cd "${work}" && mvn --quiet --batch-mode dependency:copy-dependencies -DoutputDirectory="${work}/libs" -DincludeScope=runtime)
  rm -rf "${root}/kafka/libs"
  mv "${work}/libs" "${root}/kafka/libs"
  rm -rf "${work}"
fi

if compgen -G "${root}/apicurio-registry/*-${APICURIO}-runner.jar" >/dev/null; then
  say "Apicurio's schema registry ${APICURIO} is there"
else
  need mvn "Apicurio's schema registry"
  say "fetching Apicurio's schema registry ${APICURIO}"
  work="$(mktemp -d)"
  # In a folder of its own: it leaves a note of what it unpacked where it is run.
  (cd "${work}" && mvn --quiet --batch-mode dependency:unpack \
    -Dartifact="io.apicurio:apicurio-registry-app:${APICURIO}:tar.gz:all" -DoutputDirectory="${work}/unpacked")
  rm -rf "${root}/apicurio-registry"
  mv "${work}/unpacked" "${root}/apicurio-registry"
  rm -rf "${work}"
fi

if [[ -x "${root}/bin/versitygw" ]]; then
  say "versitygw is there"
else
  need go versitygw
  say "building versitygw ${VERSITYGW}"
  GOBIN="${root}/bin" go install "github.com/versity/versitygw/cmd/versitygw@${VERSITYGW}"
fi

if compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null || [[ -n "${LOCKSTEP_POSTGRES_BIN:-}" ]]; then
  say "PostgreSQL is there"
else
  need apt-get PostgreSQL
  say "installing PostgreSQL from the system's packages"
  as_root=()
  [[ "$(id -u)" == 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  # Only the programs: no cluster is made and no service is started.
  "${as_root[@]}" mkdir -p /etc/postgresql-common
  [[ -e /etc/postgresql-common/createcluster.conf ]] ||
    echo "create_main_cluster = false" | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends postgresql >/dev/null
fi
say "all there"

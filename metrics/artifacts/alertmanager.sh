#!/bin/sh
# Start Alertmanager with the one receiver that the environment names. It reads no environment
# itself, so its configuration is written here; the arguments are passed on to it.
#
#   ALERT_WEBHOOK_URL    where each notification is posted as JSON
#   ALERT_EMAIL_TO       addresses, separated by commas; with
#   ALERT_EMAIL_FROM     the sender,
#   ALERT_SMTP_HOST      host:port of the mail server, which must offer STARTTLS,
#   ALERT_SMTP_USER      and, if it asks for them, an account
#   ALERT_SMTP_PASSWORD  and its password
set -eu
umask 077
config=${TMPDIR:-/tmp}/alertmanager.yml

# A YAML string.
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }

if [ -z "${ALERT_WEBHOOK_URL:-}${ALERT_EMAIL_TO:-}" ]; then
  echo "alertmanager.sh: set ALERT_WEBHOOK_URL or ALERT_EMAIL_TO" >&2
  exit 2
fi
if [ -n "${ALERT_EMAIL_TO:-}" ]; then
  : "${ALERT_EMAIL_FROM:?the sender of the alerts}" "${ALERT_SMTP_HOST:?host:port of the mail server}"
fi
{
  cat <<'YAML'
route:
  receiver: operator
  group_by: [alertname]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 4h
# A component that is down explains these.
inhibit_rules:
  - source_matchers: [alertname=WeavloaderComponentDown]
    target_matchers: [alertname=~"WeavloaderTargetDown|WeavloaderRetriesStorming"]
receivers:
  - name: operator
YAML
  if [ -n "${ALERT_WEBHOOK_URL:-}" ]; then
    echo "    webhook_configs:"
    echo "      - {send_resolved: true, url: $(quoted "$ALERT_WEBHOOK_URL")}"
  fi
  if [ -n "${ALERT_EMAIL_TO:-}" ]; then
    echo "    email_configs:"
    echo "      - send_resolved: true"
    echo "        to: $(quoted "$ALERT_EMAIL_TO")"
    echo "        from: $(quoted "$ALERT_EMAIL_FROM")"
    echo "        smarthost: $(quoted "$ALERT_SMTP_HOST")"
    echo "        auth_username: $(quoted "${ALERT_SMTP_USER:-}")"
    echo "        auth_password: $(quoted "${ALERT_SMTP_PASSWORD:-}")"
  fi
} >"$config"
exec alertmanager "--config.file=$config" "$@"

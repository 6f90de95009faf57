"""Generated from `protos/relay/v1/relay.proto` by `protos/generate.sh`; do not edit."""

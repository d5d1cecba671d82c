# Build: a release binary. The toolchain is the image's, so that rust-toolchain.toml fetches nothing.
FROM rust:1.95.0-slim-bookworm AS build
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
# Dependencies first: they change less often than the code, and their layer is kept.
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src
COPY . .
RUN touch src/main.rs src/lib.rs \
    && cargo build --release --locked --bin super-node \
    && strip target/release/super-node

# Run: the binary, an account without rights, and a directory for its data.
FROM debian:12.11-slim
RUN groupadd --gid 10001 super-node \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin super-node \
    && install -d -o super-node -g super-node -m 0750 /data
COPY --from=build /build/target/release/super-node /usr/local/bin/super-node
# By number: Kubernetes cannot tell from a name that it is not root.
USER 10001:10001
WORKDIR /data
ENV SUPER_NODE_NODE__DATA_DIR=/data
VOLUME /data
# Clients, peers, agents.
EXPOSE 7400 7401 7402
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["super-node", "status", "-o", "plain"]
ENTRYPOINT ["super-node"]
CMD ["start"]

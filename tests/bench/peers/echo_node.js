// Echo peer: Node.js, its net module.  node echo_node.js PORT
const net = require("node:net");

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on("data", (data) => socket.write(data));
  socket.on("error", () => socket.destroy());
});
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
